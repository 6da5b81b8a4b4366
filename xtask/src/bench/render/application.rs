//! The section about the application's own path.

use super::super::plan::OURS;
use super::super::samples::Run;
use super::super::tables::{spread, table};

const ABOUT: &str = "\
## The application's own path

`termitary api` and `termitary worker` run as two processes. 16 connections POST todos, each an event with its deliveries \
(activity feed, live updates, mail). *Handled* is measured from the first request until the last delivery is finished. \
*Drained* is the backlog of an API alone, from the start of a worker until everything is finished, in deliveries.

";

/// Empty if none of it was measured.
pub(crate) fn text(run: &Run) -> String {
    let line = |(broker, name): (&str, &str)| {
        let row = format!("{broker}/application");
        let figure = |name| run.figure(&row, OURS, name);
        figure("perSecond").map(|handled| {
            vec![
                name.to_owned(),
                spread(figure("answeredPerSecond"), 1.0),
                spread(Some(handled), 1.0),
                spread(figure("drainedPerSecond"), 1.0),
            ]
        })
    };
    let lines: Vec<_> = [("redis", "over Redis"), ("sqlite", "on SQLite alone")]
        .into_iter()
        .filter_map(line)
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let head = [
        "",
        "todos created, /s",
        "todos handled, /s",
        "deliveries drained, /s",
    ];
    ABOUT.to_owned() + &table(&head, &lines)
}
