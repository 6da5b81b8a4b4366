//! Logs on stderr: text for people on a terminal, JSON for machines. Payloads are never
//! logged, and logging never waits for the reader of the log.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Config, Mistake};
use lines::Lines;

/// The time that the end of the process waits for stderr.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Starts logging. A process that `serves` logs its actions; other commands log only
/// problems.
///
/// # Errors
///
/// If the log filter is invalid.
pub fn init(config: &Config, serves: bool) -> Result<(), Mistake> {
    let filter = filter(config.log_filter.as_deref(), serves)?;
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let json = config.logs_json(terminal);
    lines().set_json(json);
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(lines().clone())
        .with_ansi(colour);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_target(false).compact().init();
    }
    // The default hook writes to stderr itself and would wait for its reader.
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes one line to stderr, after all lines that were logged before.
pub(crate) fn print(line: &str) {
    lines().push(format!("{line}\n").into_bytes());
}

/// Waits until every line is written to stderr, for at most a second.
pub(crate) fn flush() {
    lines().flush(LAST_LINES);
}

/// The queue of this process; its thread starts with the first line.
fn lines() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(|| Lines::to(std::io::stderr()))
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("(no text)");
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(&backtrace);
    tracing::error!(
        thread = thread.name(),
        at,
        backtrace = backtrace.map(tracing::field::display),
        "panicked: {text}"
    );
}

fn filter(asked: Option<&str>, serves: bool) -> Result<EnvFilter, Mistake> {
    let default = if serves {
        "info,sqlx=warn"
    } else {
        "warn,sqlx=error"
    };
    EnvFilter::try_new(asked.unwrap_or(default)).map_err(|error| {
        Mistake::new(format!(
            "RUST_LOG is `{}`: {error}. Write error, warn, info, debug or trace, or by module: info,termitary=debug",
            crate::config::escape(asked.unwrap_or_default())
        ))
    })
}
