//! The tables that compare systems.

use super::super::plan::{OURS, RAW, REDIS, SQLITE, System};
use super::super::samples::Run;
use super::super::tables::{median, spread, table};

const BROKERS: &[(&str, &str, &[System])] =
    &[("redis", "Redis", REDIS), ("sqlite", "SQLite", SQLITE)];

/// A table for each broker, with a line for each system that has one of the rows.
fn each(
    run: &Run,
    head: &[&str],
    rows: &[&str],
    cells: impl Fn(&str, &str) -> Vec<String>,
) -> String {
    let mut text = String::new();
    for (broker, title, systems) in BROKERS {
        let lines: Vec<Vec<String>> = systems
            .iter()
            .filter(|system| has(run, broker, system.name, rows))
            .map(|system| {
                let mut line = vec![name(system.name)];
                line.extend(cells(broker, system.name));
                line
            })
            .collect();
        if !lines.is_empty() {
            let mut head = head.to_vec();
            head[0] = title;
            text.push_str(&table(&head, &lines));
            text.push('\n');
        }
    }
    text
}

fn has(run: &Run, broker: &str, system: &str, rows: &[&str]) -> bool {
    run.samples
        .iter()
        .any(|s| s.system == system && rows.iter().any(|row| s.row == format!("{broker}/{row}")))
}

fn name(system: &str) -> String {
    if system == OURS {
        format!("**{system}**")
    } else if system == RAW {
        "*raw*".to_owned()
    } else {
        system.to_owned()
    }
}

pub(crate) fn publish(run: &Run) -> String {
    let rows = ["publish-one", "publish-64", "publish-bulk"];
    let head = ["", "one awaited, /s", "64 awaiting, /s", "in bulk, /s"];
    each(run, &head, &rows, |broker, system| {
        rows.iter()
            .map(|row| {
                spread(
                    run.figure(&format!("{broker}/{row}"), system, "perSecond"),
                    1.0,
                )
            })
            .collect()
    })
}

pub(crate) fn drain(run: &Run) -> String {
    let head = [
        "",
        "drained, /s",
        "worker CPU, s/100k",
        "server CPU, s/100k",
        "peak memory of the worker, MiB",
    ];
    let mut text = each(run, &head, &["drain"], |broker, system| {
        let figure = |name| run.figure(&format!("{broker}/drain"), system, name);
        vec![
            spread(figure("perSecond"), 1.0),
            median(figure("cpuPer100k"), 1.0),
            median(figure("serverCpuPer100k"), 1.0),
            median(figure("peakMemory"), 1.0 / 1_048_576.0),
        ]
    });
    let head = ["", "end to end, /s"];
    let transactional = each(run, &head, &["transactional"], |broker, system| {
        let figure = run.figure(&format!("{broker}/transactional"), system, "perSecond");
        vec![spread(figure, 1.0)]
    });
    if !transactional.is_empty() {
        text.push_str(TRANSACTIONAL);
        text.push_str(&transactional);
    }
    text
}

const TRANSACTIONAL: &str = "\
`tx.publish` from 64 tasks, moved to the worker, handled and finished in the ledger. *Raw* is the same path by hand, with \
nothing but its two commits: the limit of the machine.

";

pub(crate) fn latency(run: &Run) -> String {
    let figures = ["p50Us", "p99Us", "p999Us", "maxUs"];
    let head = ["", "p50, ms", "p99, ms", "p99.9, ms", "max, ms"];
    each(run, &head, &["latency"], |broker, system| {
        figures
            .iter()
            .map(|name| {
                spread(
                    run.figure(&format!("{broker}/latency"), system, name),
                    0.001,
                )
            })
            .collect()
    })
}
