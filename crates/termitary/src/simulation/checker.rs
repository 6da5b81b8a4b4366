//! Compares the promises with the ledger and with the observations of the actors.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

use super::observations::{Key, short};
use super::world::{Mode, RULE, START, World};
use crate::ledger::state;
use crate::schedule::Rule;

/// A delivery as it is committed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Row {
    event: Uuid,
    subscription: i64,
    state: i64,
    fence: i64,
    attempts: i64,
    crashes: i64,
    reason: Option<String>,
    worker: Option<String>,
    lease_us: Option<i64>,
}

const ROWS: &str = "SELECT e.id AS event, d.subscription, d.state, d.fence, d.attempts, d.crashes, d.reason, d.worker, d.lease_us
     FROM termitary_deliveries d JOIN termitary_events e ON e.seq = d.event";

/// Compares each look with the one before.
#[derive(Default)]
pub(super) struct Observer {
    last: HashMap<Key, Row>,
}

fn is_terminal(state: i64) -> bool {
    state >= state::DONE
}

fn name(row: &Row) -> String {
    format!("{}/{}", short(row.event), row.subscription)
}

impl Observer {
    pub(super) async fn look(&mut self, world: &World) {
        let rows: Vec<Row> = world.rows(ROWS).await;
        let mut now = HashMap::with_capacity(rows.len());
        for row in rows {
            let key = (row.event, row.subscription);
            check_row(world, &row);
            if let Some(before) = self.last.get(&key) {
                check_change(world, before, &row);
            }
            now.insert(key, row);
        }
        for (key, before) in &self.last {
            if !now.contains_key(key) {
                world
                    .observed()
                    .violated(format!("I1: {} is gone, it was {before:?}", name(before)));
            }
        }
        self.last = now;
    }
}

fn check_row(world: &World, row: &Row) {
    let mut observed = world.observed();
    let leased = row.state == state::LEASED;
    if leased && (row.worker.is_none() || row.lease_us.is_none()) {
        observed.violated(format!("{} is leased to nobody: {row:?}", name(row)));
    }
    if is_terminal(row.state) && row.worker.is_some() {
        observed.violated(format!("{} is ended and held: {row:?}", name(row)));
    }
    let counted = observed
        .counted
        .get(&(row.event, row.subscription))
        .copied();
    if row.attempts > counted.unwrap_or_default() {
        observed.violated(format!(
            "G9: {} has {} attempts, {counted:?} errors were reported",
            name(row),
            row.attempts
        ));
    }
}

fn check_change(world: &World, before: &Row, now: &Row) {
    let mut observed = world.observed();
    // A hand-over to Redis that certainly did not happen is undone whole.
    let undone = !matches!(world.mode, Mode::Sql) && before.worker.as_deref() == Some("relay");
    if now.fence < before.fence - i64::from(undone) {
        observed.violated(format!(
            "I5: the fence of {} fell: {before:?} {now:?}",
            name(now)
        ));
    }
    if !is_terminal(before.state) || before.state == now.state {
        return;
    }
    let by_operator = before.state != state::DONE && observed.step <= observed.operator_until;
    if !by_operator {
        observed.violated(format!(
            "I4: {} left its end: {before:?} {now:?}",
            name(now)
        ));
    }
}

/// The final state, after everything was healed and has run.
pub(super) async fn finally(world: &World, ticks_until: Timestamp) {
    let rows: Vec<Row> = world.rows(ROWS).await;
    {
        let mut observed = world.observed();
        observed.seen.crashes += rows.iter().map(|row| row.crashes as u64).sum::<u64>();
        let quarantined = |row: &&Row| row.reason.as_deref() == Some("crashed");
        observed.seen.quarantined += rows.iter().filter(quarantined).count() as u64;
    }
    for row in &rows {
        if !is_terminal(row.state) {
            world
                .observed()
                .violated(format!("I1: {} never ended: {row:?}", name(row)));
        }
    }
    check_told(world, &rows);
    check_published(world).await;
    check_effects(world, &rows).await;
    check_counters(world).await;
    check_ticks(world, ticks_until).await;
}

fn check_told(world: &World, rows: &[Row]) {
    let mut observed = world.observed();
    let by_key: HashMap<Key, &Row> = rows
        .iter()
        .map(|row| ((row.event, row.subscription), row))
        .collect();
    for key in observed.done.clone() {
        let row = by_key.get(&key);
        if row.is_none_or(|row| row.state != state::DONE) {
            observed.violated(format!(
                "I4: {}/{} was told done, is {row:?}",
                short(key.0),
                key.1
            ));
        }
    }
}

async fn check_published(world: &World) {
    let made: Vec<(Uuid,)> = world.rows("SELECT event FROM sim_made").await;
    let events: Vec<(Uuid,)> = world
        .rows("SELECT id FROM termitary_events WHERE name = 'sim.made' AND key = 'tx'")
        .await;
    let all: Vec<(Uuid,)> = world.rows("SELECT id FROM termitary_events").await;
    let short_of: Vec<(Uuid,)> = world
        .rows(
            "SELECT e.id FROM termitary_events e JOIN termitary_routes r ON r.event = e.name
             LEFT JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = r.subscription
             WHERE d.event IS NULL AND e.key IS NOT 'bus'",
        )
        .await;
    let made: BTreeSet<_> = made.into_iter().map(|(id,)| id).collect();
    let events: BTreeSet<_> = events.into_iter().map(|(id,)| id).collect();
    let all: BTreeSet<_> = all.into_iter().map(|(id,)| id).collect();
    let mut observed = world.observed();
    observed.seen.events += all.len() as u64;
    if made != events {
        let differ: Vec<_> = made.symmetric_difference(&events).collect();
        observed.violated(format!("I2: rows and events differ: {differ:?}"));
    }
    for (id,) in short_of {
        observed.violated(format!("I1: {} lacks a delivery", short(id)));
    }
    let lost: Vec<_> = observed
        .committed
        .difference(&made.iter().copied().collect())
        .copied()
        .collect();
    let risen: Vec<_> = observed
        .rolled_back
        .iter()
        .filter(|id| all.contains(id))
        .copied()
        .collect();
    let kept_by_ledger = matches!(world.mode, Mode::Sql);
    let dropped: Vec<_> = observed
        .on_bus
        .iter()
        .filter(|id| kept_by_ledger && !all.contains(id))
        .copied()
        .collect();
    for (what, ids) in [
        ("I1: committed and lost", lost),
        ("I2: rolled back and there", risen),
        ("I1: confirmed by the bus and lost", dropped),
    ] {
        for id in ids {
            observed.violated(format!("{what}: {}", short(id)));
        }
    }
}

async fn check_effects(world: &World, rows: &[Row]) {
    let effects: Vec<(Uuid, i64, i64)> = world
        .rows("SELECT event, subscription, COUNT(*) FROM sim_effects GROUP BY event, subscription")
        .await;
    let next: Vec<(String, i64)> = world
        .rows("SELECT key, COUNT(*) FROM termitary_events WHERE name = 'sim.next' GROUP BY key")
        .await;
    let effects: HashMap<Key, i64> = effects.into_iter().map(|(e, s, n)| ((e, s), n)).collect();
    let next: HashMap<_, _> = next.into_iter().collect();
    let mut observed = world.observed();
    for row in rows.iter().filter(|row| world.has_effect(row.subscription)) {
        let finished = row.state == state::DONE && row.reason.is_none();
        let n = effects
            .get(&(row.event, row.subscription))
            .copied()
            .unwrap_or_default();
        if n != i64::from(finished) {
            observed.violated(format!("I3: {} has {n} effects: {row:?}", name(row)));
        }
        let born = next
            .get(&row.event.to_string())
            .copied()
            .unwrap_or_default();
        if world.route(row.subscription).name == "effect.made" && born != n {
            observed.violated(format!(
                "I3: {} published {born} events, {n} effects",
                name(row)
            ));
        }
    }
    let known: BTreeSet<Key> = rows
        .iter()
        .map(|row| (row.event, row.subscription))
        .collect();
    for key in effects.keys().filter(|key| !known.contains(key)) {
        observed.violated(format!("I2: an effect without its delivery: {key:?}"));
    }
    if !matches!(world.mode, Mode::Sql) && !observed.redis_lost {
        // Stream-only events are as durable as Redis, and it lost nothing.
        let route = world
            .routes
            .iter()
            .find(|route| route.name == "effect.made")
            .unwrap();
        let missing: Vec<_> = observed
            .on_bus
            .iter()
            .filter(|&&id| !known.contains(&(id, route.id)))
            .copied()
            .collect();
        for id in missing {
            observed.violated(format!("I1: {} was on the bus and never ran", short(id)));
        }
    }
}

/// A delivery that is only recorded as done counts on Redis, when its entry ends.
async fn check_counters(world: &World) {
    let wrong: Vec<(String, i64, i64)> = world
        .rows(
            "SELECT s.name, s.done, (SELECT COUNT(*) FROM termitary_deliveries d
                 WHERE d.subscription = s.id AND d.state = 2 AND d.reason IS NULL AND d.entry IS NULL) AS rows
             FROM termitary_subscriptions s WHERE s.done <> rows",
        )
        .await;
    for (name, done, rows) in wrong {
        world
            .observed()
            .violated(format!("I7: {name} counts {done} done, has {rows}"));
    }
}

async fn check_ticks(world: &World, until: Timestamp) {
    let ticks: Vec<(i64, Option<Uuid>)> = world
        .rows("SELECT tick_us, event FROM termitary_ticks ORDER BY tick_us")
        .await;
    let events: Vec<(Uuid,)> = world
        .rows("SELECT id FROM termitary_events WHERE name = 'sim.due' ORDER BY time_us")
        .await;
    let rule = Rule::parse(RULE, "UTC").unwrap();
    let mut expected = Vec::new();
    let mut at = Timestamp::from_second(START).unwrap();
    while let Some(next) = rule.next_after(at).filter(|&next| next <= until) {
        expected.push(next.as_microsecond());
        at = next;
    }
    let found: Vec<_> = ticks.iter().map(|(us, _)| *us).collect();
    let of_ticks: BTreeSet<_> = ticks.iter().filter_map(|(_, event)| *event).collect();
    let published: BTreeSet<_> = events.iter().map(|(id,)| *id).collect();
    if found != expected || of_ticks != published || events.len() != ticks.len() {
        world.observed().violated(format!(
            "I6: {} ticks were due, {} are on record, {} events",
            expected.len(),
            found.len(),
            events.len()
        ));
    }
}
