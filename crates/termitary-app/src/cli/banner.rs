//! The banner of a starting process: its database, its addresses, and commands to try.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use super::output;
use super::serve::Role;
use crate::config::{Config, MailTransport, redact};

/// Prints the banner; with JSON logs, logs one line instead.
pub(super) fn print(config: &Config, role: Role, port: u16) {
    let url = config.local_url(port);
    if config.logs_json(std::io::stderr().is_terminal()) {
        let listening = if role.api() { url.as_str() } else { "" };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            database = %redact(&config.database_url),
            redis = %config.redis.as_ref().map(ToString::to_string).unwrap_or_default(),
            listening,
            "started"
        );
        return;
    }
    output::in_background(text(config, role, &url));
}

fn text(config: &Config, role: Role, url: &str) -> String {
    let what = match role {
        Role::Dev => "API, worker and schedules in one process",
        Role::Api => "API",
        Role::Worker => "worker and schedules",
    };
    let mut text = format!("Termitary {}: {what}\n\n", env!("CARGO_PKG_VERSION"));
    let mut row = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<10}{value}");
    };
    row("database", redact(&config.database_url));
    row(
        "events",
        match &config.redis {
            Some(redis) => format!("through {redis}, recorded in the database"),
            None => "in the database (set REDIS_URL to send them through Redis)".to_owned(),
        },
    );
    if role.worker() {
        row(
            "mail",
            match &config.mail {
                MailTransport::Smtp(url) => redact(url),
                MailTransport::Files(dir) => {
                    format!("{}/*.eml (set SMTP_URL to send it)", dir.display())
                }
            },
        );
    }
    if role.api() {
        row("API", format!("{url}/api/v1"));
        row("docs", format!("{url}/docs"));
        row("health", format!("{url}/readyz"));
        text.push_str(&attempts(url, role));
    }
    text.push_str("\nCtrl-C stops.");
    text
}

fn attempts(url: &str, role: Role) -> String {
    let register = format!(
        "curl {url}/api/v1/auth/register -H 'content-type: application/json' \\\n    -d '{{\"email\":\"ada@example.com\",\"name\":\"Ada\",\"password\":\"a walk in the rain\"}}'"
    );
    let program = output::program();
    let mut commands = vec![
        ("events", "every event and its handlers"),
        ("tail", "events as they are published"),
    ];
    if role != Role::Dev {
        commands.insert(
            0,
            (
                "worker",
                "in another terminal: handles the events of the API",
            ),
        );
    }
    let mut text = format!("\nTry:\n  {register}\n");
    for (command, what) in commands {
        let _ = writeln!(text, "  {program} {command:<9} # {what}");
    }
    text
}
