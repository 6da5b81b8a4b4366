//! The section about loads that must not change the cost of an event.

use super::super::plan::OURS;
use super::super::samples::{Run, Spread};
use super::super::tables::{number, spread, table};

/// Rows of flatness: the row, the varied quantity, the figure, and its unit.
const ROWS: &[(&str, &str, &str, &str, f64)] = &[
    (
        "pending/drain",
        "more events pending",
        "drain, µs an event",
        "usPerEvent",
        1.0,
    ),
    (
        "pending/publish",
        "events pending",
        "publish from 64 tasks, /s",
        "perSecond",
        1.0,
    ),
    (
        "pending/drain",
        "more events pending",
        "peak memory of the worker, MiB",
        "peakMemory",
        1.0 / 1_048_576.0,
    ),
    (
        "subscriptions/drain",
        "subscriptions",
        "drain, µs an event",
        "usPerEvent",
        1.0,
    ),
    (
        "neighbour/drain",
        "events pending at a slow neighbour",
        "drain, µs an event",
        "usPerEvent",
        1.0,
    ),
];

pub(crate) fn text(run: &Run) -> String {
    let mut text = String::new();
    for (row, varied, told, figure, scale) in ROWS {
        let found: Vec<(&str, Vec<(f64, Spread)>)> = [("Redis", "redis"), ("SQLite", "sqlite")]
            .into_iter()
            .map(|(name, broker)| {
                (
                    name,
                    run.points(&format!("flat/{broker}/{row}"), OURS, figure),
                )
            })
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let Some((_, first)) = found.first() else {
            continue;
        };
        let mut head = vec![format!("{varied} → {told}")];
        head.extend(first.iter().map(|(at, _)| number(*at)));
        head.push("last to first, aim".to_owned());
        let lines: Vec<Vec<String>> = found
            .iter()
            .map(|(name, points)| line(name, points, figure, *scale))
            .collect();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        text.push_str(&table(&head, &lines));
        text.push('\n');
    }
    if let Some(cold) = run.figure("flat/cold-start", OURS, "seconds") {
        let cold = spread(Some(cold), 1000.0);
        text.push_str(
            "Cold start on the embedded default, from the start of the process without a database file to the first \
             handled event: ",
        );
        text.push_str(&cold);
        text.push_str(" ms; the aim is 100 ms.\n");
    }
    text
}

fn line(name: &str, points: &[(f64, Spread)], figure: &str, scale: f64) -> Vec<String> {
    let mut line = vec![name.to_owned()];
    line.extend(points.iter().map(|(_, found)| spread(Some(*found), scale)));
    let ends = points.first().zip(points.last());
    line.push(ends.map_or_else(String::new, |((_, first), (_, last))| {
        verdict(figure, first.median, last.median)
    }));
    line
}

/// The ratio of the last to the first, and a mark if it is flat: within 20%, or for memory at most
/// 30 MiB.
fn verdict(figure: &str, first: f64, last: f64) -> String {
    let ratio = last / first;
    let (flat, aim) = match figure {
        "peakMemory" => (last <= 30.0 * 1_048_576.0, "at most 30 MiB"),
        "perSecond" => (ratio >= 1.0 / 1.2, "at least 0.83"),
        _ => (ratio <= 1.2, "at most 1.20"),
    };
    let mark = if flat { "✓" } else { "✗" };
    format!("{ratio:.2}, {aim} {mark}")
}
