//! The targets of Termitary, its figures, and the rows in which it is behind.

use super::super::plan::{AIMS, Aim, OURS, RAW};
use super::super::samples::{Run, Spread};
use super::super::tables::{number, table};

pub(crate) fn text(run: &Run) -> String {
    let rows: Vec<Vec<String>> = AIMS.iter().filter_map(|aim| row(run, aim)).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = [
        "",
        "raw",
        "Termitary",
        "share of raw",
        "aim",
        "best other",
        "Termitary to it",
    ];
    let misses = misses(run);
    let misses = if misses.is_empty() {
        "This run reached every aim, and no other system was ahead in any row.\n".to_owned()
    } else {
        format!(
            "Rows behind their aim or behind another system:\n\n{}\n",
            misses.join("\n")
        )
    };
    format!("## In short\n\n{}\n{misses}", table(&head, &rows))
}

fn row(run: &Run, aim: &Aim) -> Option<Vec<String>> {
    let (raw, ours) = compared(run, aim)?;
    let share = ours.median / raw.median;
    let mark = if reached(aim, share) { "✓" } else { "✗" };
    let bound = if is_time(aim) { "≤" } else { "≥" };
    let mut cells = vec![
        aim.what.to_owned(),
        shown(aim, raw.median),
        shown(aim, ours.median),
        format!("{share:.2} {mark}"),
        format!("{bound} {}", aim.share),
    ];
    match best_peer(run, &full(aim.broker, aim.row), aim.figure) {
        Some((name, spread)) => {
            let times = if is_time(aim) {
                spread.median / ours.median
            } else {
                ours.median / spread.median
            };
            cells.push(format!("{name} {}", shown(aim, spread.median)));
            cells.push(format!("{times:.1}×"));
        }
        None => cells.extend(["–".to_owned(), "–".to_owned()]),
    }
    Some(cells)
}

fn compared(run: &Run, aim: &Aim) -> Option<(Spread, Spread)> {
    let raw = run.figure(&full(aim.raw.0, aim.raw.1), RAW, aim.figure)?;
    let ours = run.figure(&full(aim.broker, aim.row), OURS, aim.figure)?;
    Some((raw, ours))
}

fn full(broker: &str, row: &str) -> String {
    format!("{broker}/{row}")
}

fn is_time(aim: &Aim) -> bool {
    aim.figure.ends_with("Us")
}

fn reached(aim: &Aim, share: f64) -> bool {
    if is_time(aim) {
        share <= aim.share
    } else {
        share >= aim.share
    }
}

fn shown(aim: &Aim, value: f64) -> String {
    if is_time(aim) {
        format!("{} ms", number(value / 1000.0))
    } else {
        format!("{}/s", number(value))
    }
}

/// The best of the other systems in a row.
fn best_peer<'a>(run: &'a Run, row: &str, figure: &str) -> Option<(&'a str, Spread)> {
    let peers = run
        .samples
        .iter()
        .filter(|s| s.row == row && s.system != RAW && s.system != OURS)
        .filter_map(|s| Some((s.system.as_str(), run.figure(row, &s.system, figure)?)));
    let less = |a: &Spread, b: &Spread| a.median.total_cmp(&b.median);
    if figure.ends_with("Us") {
        peers.min_by(|(_, a), (_, b)| less(a, b))
    } else {
        peers.max_by(|(_, a), (_, b)| less(a, b))
    }
}

/// Every missed target, and every row in which another system is faster.
fn misses(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    for aim in AIMS {
        let Some((raw, ours)) = compared(run, aim) else {
            continue;
        };
        let share = ours.median / raw.median;
        if !reached(aim, share) {
            lines.push(format!(
                "- {}: {share:.2} of raw, the aim is {}.",
                aim.what, aim.share
            ));
        }
    }
    for broker in ["redis", "sqlite"] {
        for (name, figure) in [
            ("publish-one", "perSecond"),
            ("publish-64", "perSecond"),
            ("publish-bulk", "perSecond"),
            ("drain", "perSecond"),
            ("latency", "p50Us"),
            ("latency", "p99Us"),
        ] {
            lines.extend(behind(run, &full(broker, name), figure));
        }
    }
    lines
}

fn behind(run: &Run, row: &str, figure: &str) -> Option<String> {
    let ours = run.figure(row, OURS, figure)?.median;
    let (name, peer) = best_peer(run, row, figure)?;
    let time = figure.ends_with("Us");
    let ahead = if time {
        peer.median < ours
    } else {
        peer.median > ours
    };
    ahead.then(|| {
        let unit = if time { "µs" } else { "/s" };
        format!(
            "- {row}: {name} is ahead, {} {unit} against {} {unit}.",
            number(peer.median),
            number(ours)
        )
    })
}
