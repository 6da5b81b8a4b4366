//! I3 and I5: each effect happens once, under the highest fence, and together with the event that
//! it published.

use std::collections::{BTreeMap, HashMap};

use termitary::Event as _;

use super::Verdict;
use super::lost::finishes_itself;
use super::view::View;
use crate::events::{ECHOING, Echoed};

type Key<'a> = (&'a str, &'a str);

pub(super) fn check(view: &View<'_>, verdict: &mut Verdict) {
    let mut effects: HashMap<Key<'_>, (usize, u64)> = HashMap::new();
    for effect in &view.facts.effects {
        let key = (&*effect.event, &*effect.subscription);
        effects.entry(key).or_insert((0, effect.n)).0 += 1;
    }
    once(&effects, verdict);
    with_their_delivery(view, &effects, verdict);
    with_their_echo(view, verdict);
    fences(view, verdict);
    verdict.numbers.effects = view.facts.effects.len();
    verdict.numbers.runs = view.runs.len();
    verdict.numbers.duplicate_runs = duplicates(view);
}

fn once(effects: &HashMap<Key<'_>, (usize, u64)>, verdict: &mut Verdict) {
    for ((event, subscription), (count, n)) in effects {
        if *count > 1 {
            verdict.numbers.effects_doubled += 1;
            let example = format!("number {n}, event {event}: {count} effects of {subscription}");
            verdict.finds("I3", "an effect happened more than once", example);
        }
    }
}

/// "Done" and its effect committed together: both or neither.
fn with_their_delivery(
    view: &View<'_>,
    effects: &HashMap<Key<'_>, (usize, u64)>,
    verdict: &mut Verdict,
) {
    let mut done = std::collections::HashSet::new();
    for delivery in view
        .facts
        .deliveries
        .iter()
        .filter(|delivery| delivery.state == 2)
    {
        let (Some(event), Some(subscription)) = (
            view.facts.events.get(&delivery.event),
            view.facts.subscriptions.get(&delivery.subscription),
        ) else {
            continue;
        };
        let key = (&*event.id, &*subscription.name);
        done.insert(key);
        if finishes_itself(&subscription.name) && !effects.contains_key(&key) {
            let example = format!("number {} for {}", event.n, subscription.name);
            verdict.finds("I3", "done without its effect", example);
        }
    }
    for ((event, subscription), (_, n)) in effects {
        if !done.contains(&(*event, *subscription)) {
            let example = format!("number {n}, event {event}, {subscription}");
            verdict.finds("I2", "an effect whose delivery is not done", example);
        }
    }
}

/// The event that an effect published committed with it.
fn with_their_echo(view: &View<'_>, verdict: &mut Verdict) {
    let mut echoes: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for effect in view
        .facts
        .effects
        .iter()
        .filter(|effect| effect.subscription == ECHOING)
    {
        echoes.entry(effect.n).or_default().0 += 1;
    }
    for event in view
        .facts
        .events
        .values()
        .filter(|event| event.name == Echoed::NAME)
    {
        echoes.entry(event.n).or_default().1 += 1;
    }
    for (n, (effects, events)) in echoes {
        if effects != events {
            let example = format!("number {n}: {effects} effects, {events} events");
            verdict.finds(
                "I3",
                "an effect and the event it published do not match",
                example,
            );
        }
    }
}

/// No run commits under a fence that another run has passed, and the row's own fence is the highest
/// of all.
fn fences(view: &View<'_>, verdict: &mut Verdict) {
    let mut highest: HashMap<Key<'_>, i64> = HashMap::new();
    for ran in &view.runs {
        let fence = highest
            .entry((&ran.run.event, &ran.run.subscription))
            .or_default();
        *fence = ran.run.fence.max(*fence);
    }
    for effect in &view.facts.effects {
        let highest = highest.get(&(&*effect.event, &*effect.subscription));
        if highest.is_some_and(|highest| *highest > effect.fence) {
            let example = format!(
                "number {}, {}, fence {}",
                effect.n, effect.subscription, effect.fence
            );
            verdict.finds(
                "I5",
                "committed under a fence that another run had passed",
                example,
            );
        }
    }
    for delivery in &view.facts.deliveries {
        let (Some(event), Some(subscription)) = (
            view.facts.events.get(&delivery.event),
            view.facts.subscriptions.get(&delivery.subscription),
        ) else {
            continue;
        };
        let seen = highest.get(&(&*event.id, &*subscription.name)).copied();
        if seen.is_some_and(|seen| seen > delivery.fence) {
            let example = format!(
                "number {} for {}: {}",
                event.n, subscription.name, delivery.fence
            );
            verdict.finds("I5", "a row's fence is below an earlier one", example);
        }
    }
}

/// Number of attempts that began more than once.
fn duplicates(view: &View<'_>) -> usize {
    let mut runs: HashMap<(Key<'_>, u32), usize> = HashMap::new();
    for ran in &view.runs {
        let key = (&*ran.run.event, &*ran.run.subscription);
        *runs.entry((key, ran.run.attempt)).or_default() += 1;
    }
    runs.values().map(|count| count - 1).sum()
}
