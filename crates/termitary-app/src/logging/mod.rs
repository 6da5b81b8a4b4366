//! Logs on stderr: text for people on a terminal, JSON for machines. Payloads are never
//! logged, and logging never waits for the reader of the log.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Debug;
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Compact, DefaultFields, Format, Writer};
use tracing_subscriber::fmt::{self, FormatFields, SubscriberBuilder};

use crate::config::{Config, Mistake, escape};
use lines::Lines;

/// The time that the end of the process waits for stderr.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The field of a panic's backtrace.
const BACKTRACE: &str = "backtrace";

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
    let builder = fmt::fmt()
        .with_env_filter(filter)
        .with_writer(lines().clone())
        .with_ansi(colour);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        text(builder).init();
    }
    // The default hook writes to stderr itself and would wait for its reader.
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Text: one line for each event, without the module.
fn text<F, W>(
    builder: SubscriberBuilder<DefaultFields, Format, F, W>,
) -> SubscriberBuilder<impl for<'writer> FormatFields<'writer> + 'static, Format<Compact>, F, W> {
    let fields = format::debug_fn(field).delimited(" ");
    builder.with_target(false).compact().fmt_fields(fields)
}

/// Writes one field. Names of events, errors and other texts may come from foreign programs:
/// they must not control the terminal or begin a line of their own.
fn field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let name = field.name();
    if name == BACKTRACE {
        // Only names of this program's functions, on many lines.
        return write!(to, "{name}={value:?}");
    }
    let value = escape(&format!("{value:?}"));
    match name {
        "message" => to.write_str(&value),
        _ if to.has_ansi_escapes() => {
            write!(to, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}")
        }
        _ => write!(to, "{name}={value}"),
    }
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
            escape(asked.unwrap_or_default())
        ))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read as _, Write};

    use super::*;

    /// The text log of `act`.
    fn logged(colour: bool, act: impl FnOnce()) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let lines = move || -> Box<dyn Write> { Box::new(writer.try_clone().unwrap()) };
        let subscriber = text(fmt::fmt().with_writer(lines).with_ansi(colour)).finish();
        tracing::subscriber::with_default(subscriber, act);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn foreign_text_in_the_log_cannot_steer_a_terminal_or_begin_a_line() {
        let evil = "todos\u{1b}[2J\u{9b}1m\n2026 ERROR \u{202e}forged";
        let said = logged(false, || {
            let _span = tracing::info_span!("attempt", event.name = %evil).entered();
            let error = std::io::Error::other(evil);
            tracing::warn!(name = evil, shown = %evil, error = ?error, "of {evil}");
            tracing::warn!(error = &error as &dyn std::error::Error, "once more");
        });
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.matches(r"todos\u{1b}[2J").count() >= 6, "{said}");
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!said.contains(steers), "{said:?}");
        assert!(
            said.contains("of todos") && said.contains("event.name=todos"),
            "{said}"
        );
    }

    #[test]
    fn a_terminal_gets_colours_and_no_escape_of_others() {
        let said = logged(true, || tracing::warn!(shown = %"\u{1b}[2J", "hello"));
        assert!(
            said.contains('\u{1b}') && !said.contains("\u{1b}[2J"),
            "{said:?}"
        );
    }
}
