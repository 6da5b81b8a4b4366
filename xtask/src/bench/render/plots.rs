//! The plots of the page.

use super::super::plan::{OURS, RAW};
use super::super::samples::Run;
use super::super::svg::{Bar, Panel, draw};
use super::super::tables::number;

/// Names and texts of the plots that have measurements.
pub(crate) fn all(run: &Run) -> Vec<(&'static str, String)> {
    let plots = [
        ("publish.svg", publish(run)),
        ("drain.svg", drain(run)),
        ("latency.svg", latency(run)),
        ("flat.svg", flat(run)),
    ];
    plots
        .into_iter()
        .filter_map(|(name, panels)| Some((name, draw(&panels)?)))
        .collect()
}

fn publish(run: &Run) -> Vec<Panel> {
    [
        (
            "redis/publish-64",
            "Redis: published a second, 64 tasks each awaiting their own",
        ),
        ("redis/publish-bulk", "Redis: published a second, in bulk"),
        (
            "sqlite/publish-64",
            "SQLite, synchronous=FULL: published a second, 64 tasks",
        ),
        (
            "sqlite/publish-bulk",
            "SQLite, synchronous=FULL: published a second, in bulk",
        ),
    ]
    .map(|(row, title)| rates(run, row, title))
    .into()
}

fn drain(run: &Run) -> Vec<Panel> {
    [
        (
            "redis/drain",
            "Redis: handled and acknowledged a second, one worker process",
        ),
        ("sqlite/drain", "SQLite, synchronous=FULL: the same"),
    ]
    .map(|(row, title)| rates(run, row, title))
    .into()
}

fn latency(run: &Run) -> Vec<Panel> {
    [
        (
            "redis/latency",
            "p50Us",
            "Redis: publish to handler, 500/s, p50 (logarithmic)",
        ),
        (
            "redis/latency",
            "p99Us",
            "Redis: publish to handler, 500/s, p99 (logarithmic)",
        ),
        (
            "sqlite/latency",
            "p50Us",
            "SQLite: publish to handler, 500/s, p50 (logarithmic)",
        ),
        (
            "sqlite/latency",
            "p99Us",
            "SQLite: publish to handler, 500/s, p99 (logarithmic)",
        ),
    ]
    .map(|(row, figure, title)| times(run, row, figure, title))
    .into()
}

fn flat(run: &Run) -> Vec<Panel> {
    const MIB: f64 = 1.0 / 1_048_576.0;
    [
        (
            "pending/drain",
            "usPerEvent",
            1.0,
            "µs to drain an event, with so many pending behind it",
        ),
        (
            "subscriptions/drain",
            "usPerEvent",
            1.0,
            "µs to drain an event, with so many subscriptions",
        ),
        (
            "neighbour/drain",
            "usPerEvent",
            1.0,
            "µs to drain an event, beside a slow neighbour with so many pending",
        ),
        (
            "pending/drain",
            "peakMemory",
            MIB,
            "Peak memory of the worker in MiB, by pending events",
        ),
    ]
    .map(|(row, figure, scale, title)| lines(run, row, figure, scale, title))
    .into()
}

fn rates(run: &Run, row: &str, title: &str) -> Panel {
    Panel::Bars {
        title: title.to_owned(),
        log: false,
        bars: bars(run, row, "perSecond", |rate| format!("{}/s", number(rate))),
    }
}

fn times(run: &Run, row: &str, figure: &str, title: &str) -> Panel {
    Panel::Bars {
        title: title.to_owned(),
        log: true,
        bars: bars(run, row, figure, |us| format!("{} ms", number(us / 1000.0))),
    }
}

fn bars(run: &Run, row: &str, figure: &str, text: impl Fn(f64) -> String) -> Vec<Bar> {
    run.systems(row)
        .into_iter()
        .filter_map(|system| {
            let spread = run.figure(row, system, figure)?;
            Some(Bar {
                label: system.to_owned(),
                class: match system {
                    OURS => "ours",
                    RAW => "raw",
                    _ => "peer",
                },
                text: text(spread.median),
                spread,
            })
        })
        .collect()
}

fn lines(run: &Run, row: &str, figure: &str, scale: f64, title: &str) -> Panel {
    let series = [("Redis", "redis"), ("SQLite", "sqlite")].map(|(name, broker)| {
        let mut points = run.points(&format!("flat/{broker}/{row}"), OURS, figure);
        for (_, spread) in &mut points {
            spread.median *= scale;
            spread.min *= scale;
            spread.max *= scale;
        }
        (name.to_owned(), points)
    });
    Panel::Lines {
        title: title.to_owned(),
        series: series.into(),
    }
}
