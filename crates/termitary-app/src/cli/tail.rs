//! `termitary tail`: events as they are published.

use termitary::Envelope;

use super::args::TailArgs;
use super::signals::interrupted;
use super::system::{Access, System};
use super::{output, reachable};
use crate::config::{Config, escape};

pub(super) async fn run(config: Config, args: TailArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Look).await?;
    let source = config.redis.as_ref().map_or("the database", |_| "Redis");
    tokio::select! {
        shown = show(&system, source, &args) => shown,
        stopped = interrupted() => stopped,
    }
}

async fn show(system: &System, source: &str, args: &TailArgs) -> anyhow::Result<()> {
    let mut tail = system.broker.inspect().tail().await?;
    let mut next = async || loop {
        match tail.next().await {
            Err(error) if error.is_unavailable() => {
                reachable::wait_out(&system.broker, source, &error).await;
            }
            next => return next,
        }
    };
    let mut printer = output::Printer::start()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        // Without a reader, the wait for the next event should end.
        let event = tokio::select! {
            event = next() => event?,
            failed = printer.failed() => return failed,
        };
        if !matches(args.pattern.as_bytes(), event.name.as_bytes()) {
            continue;
        }
        let line = if args.json {
            serde_json::to_string(&event)?
        } else {
            row(&event)
        };
        printer.line(line).await?;
        left -= 1;
    }
    printer.finish().await
}

fn row(event: &Envelope) -> String {
    escape(&format!(
        "{}  {}  {}  {}",
        event.time,
        event.id,
        event.name,
        event.data.get()
    ))
}

/// Returns true if `name` matches `pattern`: `*` stands for any characters, `?` for one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // The place to retry from, with one more character for the last `*`.
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&letter) if letter == b'?' || letter == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, taken)) = retry else {
                    return false;
                };
                retry = Some((star, taken + 1));
                p = star + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&letter| letter == b'*')
}

#[cfg(test)]
mod tests {
    fn matches(pattern: &str, name: &str) -> bool {
        super::matches(pattern.as_bytes(), name.as_bytes())
    }

    #[test]
    fn a_star_stands_for_any_letters_and_a_question_mark_for_one() {
        assert!(matches("*", "todos.created"));
        assert!(matches("todos.*", "todos.overdue.check"));
        assert!(matches("*.created", "users.created"));
        assert!(matches("t?dos.*ted", "todos.updated"));
        assert!(!matches("todos.*", "users.created"));
        assert!(!matches("todos", "todos.created"));
        assert!(matches("todos.created", "todos.created"));
        assert!(!matches("", "todos"));
    }
}
