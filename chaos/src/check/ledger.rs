//! I4, I6 and I7: the ledger is consistent.

use std::collections::BTreeMap;

use termitary::Event as _;

use super::Verdict;
use super::view::View;
use crate::events::Ticked;

pub(super) fn check(view: &View<'_>, verdict: &mut Verdict) {
    for crime in &view.facts.crimes {
        match &*crime.what {
            "terminal" => verdict.finds("I4", "a terminal state was left", crime.detail.clone()),
            _ => verdict.finds("I5", "a fence fell", crime.detail.clone()),
        }
    }
    ticks(view, verdict);
    counters(view, verdict);
}

/// Between the first tick and the last each second has exactly one event.
fn ticks(view: &View<'_>, verdict: &mut Verdict) {
    let mut events: BTreeMap<u64, usize> = BTreeMap::new();
    for event in view
        .facts
        .events
        .values()
        .filter(|event| event.name == Ticked::NAME)
    {
        *events.entry(event.n).or_default() += 1;
    }
    for (second, fired) in &view.facts.ticks {
        if *fired {
            events.entry(*second).or_default();
        }
    }
    verdict.numbers.ticks = events.len();
    let mut last = None;
    for (second, count) in events {
        match count {
            1 => {}
            0 => verdict.finds(
                "I6",
                "a recorded tick has no event",
                format!("second {second}"),
            ),
            _ => verdict.finds(
                "I6",
                "a tick has several events",
                format!("second {second}: {count}"),
            ),
        }
        if last.is_some_and(|last| last + 1 != second) {
            verdict.finds("I6", "a tick is missing", format!("before second {second}"));
        }
        last = Some(second);
    }
}

/// Compares each subscription's counter in the ledger with its rows; no row is pruned here.
fn counters(view: &View<'_>, verdict: &mut Verdict) {
    for (route, subscription) in &view.facts.subscriptions {
        let rows = view.facts.deliveries.iter();
        let done = rows
            .filter(|d| d.subscription == *route && d.state == 2 && !d.noted)
            .count() as u64;
        if done != subscription.done {
            let example = format!(
                "{}: {} counted, {done} rows",
                subscription.name, subscription.done
            );
            verdict.finds("I7", "a counter and its rows disagree", example);
        }
    }
}
