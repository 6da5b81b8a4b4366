//! Logs: to stderr, for people on a terminal, as JSON for machines. Payloads
//! are never logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Config, Mistake};

/// Begins logging. `serves`: the process runs until it is stopped, so it says
/// what it does; other commands speak only of trouble.
pub fn init(config: &Config, serves: bool) -> Result<(), Mistake> {
    let filter = filter(config.log_filter.as_deref(), serves)?;
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever read stderr may have gone. The complaint about it would go there
        // too, and its failure is a panic of whatever was about to log.
        .log_internal_errors(false)
        .with_ansi(colour);
    if config.logs_json(terminal) {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_target(false).compact().init();
    }
    Ok(())
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
