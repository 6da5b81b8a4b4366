//! I1 and I2: committed events are finished, and no other event ever ran.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::view::{Answer, Publish, View};
use super::{Limits, Verdict};
use termitary::Event as _;

use crate::events::{FLAKY, Noted, Path, is_hopeless};
use crate::facts::{Delivery, Event, Subscription};

const DONE: i64 = 2;
const DEAD: i64 = 3;
const PARKED: i64 = 4;

/// Facts about the events, by number and by row.
struct Known<'a> {
    /// The events of each number, recorded or seen by a handler.
    ids: BTreeMap<u64, BTreeSet<&'a str>>,
    on_record: BTreeMap<u64, usize>,
    rows: HashMap<(i64, i64), &'a Delivery>,
    /// Numbers and subscriptions whose handler succeeded.
    succeeded: HashSet<(u64, &'a str)>,
    seqs: BTreeMap<u64, Vec<i64>>,
}

pub(super) fn check(view: &View<'_>, limits: &Limits, verdict: &mut Verdict) {
    let known = Known::of(view);
    for (&n, publish) in &view.publishes {
        one_publish(view, &known, limits, n, publish, verdict);
    }
    strangers(view, &known, verdict);
    for (&seq, event) in &view.facts.events {
        fanned_out(view, &known, limits, seq, event, verdict);
    }
    for delivery in &view.facts.deliveries {
        terminal(view, &known, delivery, verdict);
    }
    let numbers = &mut verdict.numbers;
    numbers.published = view
        .publishes
        .values()
        .filter(|p| p.answer == Answer::Ok)
        .count();
    numbers.unknown = view
        .publishes
        .values()
        .filter(|p| p.answer == Answer::Unknown)
        .count();
    numbers.events = view.facts.events.len().max(known.ids.len());
    numbers.deliveries = view.facts.deliveries.len();
    numbers.suspects = view
        .facts
        .deliveries
        .iter()
        .filter(|d| d.crashes >= 2)
        .count();
}

impl<'a> Known<'a> {
    fn of(view: &'a View<'_>) -> Self {
        let mut known = Self {
            ids: BTreeMap::new(),
            on_record: BTreeMap::new(),
            rows: HashMap::new(),
            succeeded: HashSet::new(),
            seqs: BTreeMap::new(),
        };
        for (seq, event) in view
            .facts
            .events
            .iter()
            .filter(|(_, e)| e.name == Noted::NAME)
        {
            known.ids.entry(event.n).or_default().insert(&event.id);
            *known.on_record.entry(event.n).or_default() += 1;
            known.seqs.entry(event.n).or_default().push(*seq);
        }
        for ran in view
            .runs
            .iter()
            .filter(|ran| ran.run.subscription.starts_with("noted."))
        {
            known
                .ids
                .entry(ran.run.n)
                .or_default()
                .insert(&ran.run.event);
            if ran.succeeded() {
                known.succeeded.insert((ran.run.n, &ran.run.subscription));
            }
        }
        for delivery in &view.facts.deliveries {
            known
                .rows
                .insert((delivery.event, delivery.subscription), delivery);
        }
        known
    }

    fn finished(&self, n: u64, route: i64, subscription: &Subscription) -> bool {
        let row = self.seqs.get(&n).into_iter().flatten();
        let settled = row
            .filter_map(|seq| self.rows.get(&(*seq, route)))
            .any(|row| row.state >= DONE);
        settled || self.succeeded.contains(&(n, &*subscription.name))
    }
}

/// Compares the outcome of one publish with the database.
fn one_publish(
    view: &View<'_>,
    known: &Known<'_>,
    limits: &Limits,
    n: u64,
    publish: &Publish,
    verdict: &mut Verdict,
) {
    let events = known.on_record.get(&n).copied().unwrap_or_default();
    let seen = known.ids.get(&n).map_or(0, BTreeSet::len);
    let order = view.facts.orders.contains(&n);
    let path = publish.path;
    let example = || {
        format!(
            "number {n}, {path:?}, {:?}: {events} events, order {order}",
            publish.answer
        )
    };
    if seen > 1 {
        verdict.finds("I3", "one publish made several events", example());
    }
    if path.has_order() && order != (events > 0) {
        verdict.finds(
            "I1",
            "a business row without its event, or an event without its row",
            example(),
        );
    }
    match publish.answer {
        Answer::Fail if seen > 0 || order => {
            verdict.finds(
                "I2",
                "a publish that failed or rolled back is real",
                example(),
            );
        }
        Answer::Ok if limits.redis && path.is_stream_only() => {
            on_the_stream(view, known, n, publish, verdict);
        }
        Answer::Ok if events == 0 => {
            verdict.numbers.lost += 1;
            verdict.finds("I1", "a confirmed publish left no event", example());
        }
        Answer::Ok | Answer::Fail | Answer::Unknown => {}
    }
}

/// As durable as Redis: it may be lost, but only with data that Redis lost later.
fn on_the_stream(
    view: &View<'_>,
    known: &Known<'_>,
    n: u64,
    publish: &Publish,
    verdict: &mut Verdict,
) {
    let routes = view
        .facts
        .subscriptions
        .iter()
        .filter(|(_, s)| s.event == Noted::NAME);
    let missing: Vec<_> = routes
        .filter(|(route, subscription)| !known.finished(n, **route, subscription))
        .map(|(_, subscription)| &*subscription.name)
        .collect();
    if missing.is_empty() {
        return;
    }
    let excused = view
        .faults
        .iter()
        .any(|fault| fault.loses && fault.until_ms >= publish.at_ms);
    if excused {
        verdict.numbers.lost_with_server += 1;
        return;
    }
    verdict.numbers.lost += 1;
    verdict.finds(
        "I1",
        "an event on the bus is lost though Redis lost nothing",
        format!(
            "number {n}, published at {} ms: not finished by {missing:?}",
            publish.at_ms
        ),
    );
}

/// Events and rows without a publish.
fn strangers(view: &View<'_>, known: &Known<'_>, verdict: &mut Verdict) {
    for n in known.ids.keys().chain(&view.facts.orders) {
        if !view.publishes.contains_key(n) {
            verdict.finds("I2", "an event without a publish", format!("number {n}"));
        }
    }
}

/// Each subscription has a delivery of each event that is whole in the ledger.
fn fanned_out(
    view: &View<'_>,
    known: &Known<'_>,
    limits: &Limits,
    seq: i64,
    event: &Event,
    verdict: &mut Verdict,
) {
    // An event that the ledger adopted from a stream has rows only for some subscriptions.
    if limits.redis && event.path.is_some_and(Path::is_stream_only) {
        return;
    }
    for (route, subscription) in &view.facts.subscriptions {
        if subscription.event == event.name && !known.rows.contains_key(&(seq, *route)) {
            verdict.numbers.lost += 1;
            let example = format!("{} {} for {}", event.name, event.n, subscription.name);
            verdict.finds("I1", "a subscription got no delivery", example);
        }
    }
}

/// The delivery has ended, for an expected reason.
fn terminal(view: &View<'_>, known: &Known<'_>, delivery: &Delivery, verdict: &mut Verdict) {
    let Some(event) = view.facts.events.get(&delivery.event) else {
        verdict.finds(
            "I2",
            "a delivery without its event",
            format!("row {}", delivery.event),
        );
        return;
    };
    let Some(subscription) = view.facts.subscriptions.get(&delivery.subscription) else {
        return;
    };
    let reason = delivery.reason.as_deref().unwrap_or_default();
    let name = &*subscription.name;
    let hopeless = name == FLAKY && is_hopeless(event.n);
    let example = || {
        format!(
            "{} {} for {name}: state {} {reason}",
            event.name, event.n, delivery.state
        )
    };
    match delivery.state {
        DONE if hopeless => verdict.finds("I1", "done though it can only fail", example()),
        DONE if !finishes_itself(name) && !known.succeeded.contains(&(event.n, name)) => {
            verdict.finds("I1", "done though no run of it succeeded", example());
        }
        DONE => {}
        DEAD if reason == "crashed" => verdict.numbers.quarantined += 1,
        DEAD if reason == "permanent" && hopeless => {}
        DEAD => verdict.finds("I1", "dead for an unplanned reason", example()),
        PARKED => verdict.finds("I1", "parked though every worker can read it", example()),
        _ => {
            verdict.numbers.lost += 1;
            verdict.finds("I1", "never finished", example());
        }
    }
}

/// Returns whether the handler commits "done" with its effect.
pub(super) fn finishes_itself(subscription: &str) -> bool {
    subscription != FLAKY && subscription != "noted.plain"
}
