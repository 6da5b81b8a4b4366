//! The actions of the actors, through the same functions as the real loops.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::actor::rest;
use super::world::{Made, Next, Process, World};
use crate::clock::{micros, secs};
use crate::delivery::{Leased, Outcome, Settlement};
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::handler::{HandlerResult, Ledger, LedgerScope, Verdict};
use crate::inspect::LetterFilter;
use crate::ledger;
use crate::ledger::letters::Resolve;
use crate::schedule::ticker::fire_due;

/// Number of retries of a settlement whose outcome is unknown.
const SETTLE_TRIES: u32 = 3;

/// Leases, runs, renews, settles; now and then a suspect, alone.
pub(super) async fn worker(world: Rc<World>, mut random: Rng, me: Process) {
    for _ in 0..random.u32(2..6) {
        if random.u8(0..4) == 0 {
            let _ = suspects(&world, &mut random, &me).await;
            continue;
        }
        let route = random.choice(&world.routes).unwrap();
        let max = random.usize(1..5);
        let leased = me
            .broker
            .transport()
            .lease(route, &me.id, max, Duration::ZERO);
        let Ok(leased) = leased.await else {
            world.observed().seen.errors += 1;
            continue;
        };
        handle(&world, &mut random, &me, &leased, false).await;
    }
    if random.bool() {
        let _ = me.broker.transport().leave(&me.id, &world.routes).await;
    }
}

/// Runs leased deliveries, and settles them together. `kind`: every run succeeds.
pub(super) async fn handle(
    world: &World,
    random: &mut Rng,
    me: &Process,
    leased: &[Leased],
    kind: bool,
) {
    for delivery in leased {
        world.observed().leased(&delivery.claim);
    }
    let mut settlements = Vec::new();
    for (i, delivery) in leased.iter().enumerate() {
        if !kind && random.u8(0..3) == 0 {
            let rest: Vec<_> = leased[i..].iter().map(|one| one.claim.clone()).collect();
            let _ = me.broker.transport().renew(&rest).await;
        }
        if !kind && random.bool() {
            rest().await;
        }
        let has_effect = world.has_effect(delivery.claim.route);
        let outcome = if has_effect && (kind || random.u8(0..10) < 7) {
            effect(world, delivery).await
        } else {
            Some(scripted(world, random, has_effect, kind))
        };
        settlements.extend(outcome.map(|outcome| Settlement {
            claim: delivery.claim.clone(),
            outcome,
        }));
    }
    settle(world, me, settlements).await;
}

/// As a handler with `Ledger`: effect, a new event and "done" together.
async fn effect(world: &World, delivery: &Leased) -> Option<Outcome> {
    let scope = Arc::new(LedgerScope::new(world.db.clone(), delivery.claim.clone()));
    match commit_effect(&Ledger::over(scope), delivery).await {
        Ok(()) => Some(Outcome::Done { committed: true }),
        Err(error) if error.verdict == Verdict::LostLease => {
            world.note(&format!("  {} lost its lease", delivery.claim.worker));
            world.observed().seen.refused += 1;
            None
        }
        Err(_) => {
            world.observed().seen.errors += 1;
            Some(Outcome::Retry {
                due_us: world.db.clock().now_us(),
                error: "the database failed".to_owned(),
            })
        }
    }
}

async fn commit_effect(ledger: &Ledger, delivery: &Leased) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO sim_effects (event, subscription, fence) VALUES ($1, $2, $3)")
        .bind(delivery.envelope.id)
        .bind(delivery.claim.route)
        .bind(delivery.claim.fence)
        .execute(&mut *tx)
        .await?;
    if delivery.envelope.name == Made::NAME {
        let parent = delivery.envelope.id.to_string();
        tx.publish(Next {}.keyed(parent)).await?;
    }
    tx.commit().await
}

fn scripted(world: &World, random: &mut Rng, has_effect: bool, kind: bool) -> Outcome {
    let due_us = world.db.clock().now_us() + micros(secs(random.u64(0..40)));
    let error = "as scripted".to_owned();
    // A run with an effect commits "done" with it.
    let from = if has_effect { 10 } else { 0 };
    match random.u8(from..20) {
        n if kind || n < 10 => Outcome::Done { committed: false },
        10..=13 => Outcome::Retry { due_us, error },
        14..=15 => Outcome::Snooze { due_us },
        16..=17 => Outcome::Dead {
            reason: "scripted",
            error,
            counted: random.bool(),
        },
        _ => Outcome::Parked {
            reason: "scripted",
            error,
        },
    }
}

async fn settle(world: &World, me: &Process, settlements: Vec<Settlement>) {
    if settlements.is_empty() {
        return;
    }
    for settlement in &settlements {
        world.observed().settling(settlement);
    }
    for _ in 0..SETTLE_TRIES {
        if let Ok(held) = me.broker.transport().settle(&settlements).await {
            for (settlement, held) in settlements.iter().zip(held) {
                world.observed().settled(settlement, held);
            }
            return;
        }
        world.observed().seen.errors += 1;
    }
}

/// A round of suspects, by a worker that holds nothing else.
pub(super) async fn suspects(world: &World, random: &mut Rng, me: &Process) -> Result<u64, Error> {
    let routes: Vec<_> = world.routes.iter().map(|route| route.id).collect();
    let db = &world.db;
    if !ledger::suspects::waiting(db, &routes).await?
        || ledger::suspects::reserve(db, &me.id, &routes, micros(secs(6))).await? == 0
    {
        return Ok(0);
    }
    me.broker.transport().leave(&me.id, &world.routes).await?;
    let mut ran = 0;
    while let Some(leased) =
        ledger::suspects::lease(db, &me.id, micros(super::world::LEASE)).await?
    {
        ran += 1;
        world.note(&format!("  {} runs a suspect", me.id));
        handle(world, random, me, &[leased], true).await;
    }
    ledger::suspects::release(db, &me.id).await?;
    Ok(ran)
}

/// Publishes in transactions that commit, roll back or end in between, and on
/// the bus.
pub(super) async fn publisher(world: Rc<World>, mut random: Rng, me: Process) {
    for _ in 0..random.u32(2..6) {
        let published = if random.u8(0..3) > 0 {
            in_transaction(&world, &mut random).await
        } else {
            on_bus(&world, &mut random, &me).await
        };
        if published.is_err() {
            world.observed().seen.errors += 1;
        }
        rest().await;
    }
}

fn one(random: &mut Rng, key: &str) -> Outgoing<Made> {
    let event = Made {}.keyed(key);
    match random.u8(0..4) {
        0 => event.after(secs(random.u64(1..60))),
        _ => event,
    }
}

async fn in_transaction(world: &World, random: &mut Rng) -> Result<(), Error> {
    let mut tx = world.db.begin().await?;
    let id = tx.publish(one(random, "tx")).await?.id;
    sqlx::query("INSERT INTO sim_made (event) VALUES ($1)")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    match random.u8(0..6) {
        0 => {
            tx.rollback().await?;
            world.observed().rolled_back.insert(id);
        }
        1 => {
            drop(tx);
            world.observed().rolled_back.insert(id);
        }
        _ => {
            // Dropped while it waits here, the outcome is unknown.
            tx.commit().await?;
            world.observed().committed.insert(id);
        }
    }
    Ok(())
}

async fn on_bus(world: &World, random: &mut Rng, me: &Process) -> Result<(), Error> {
    let event = match random.u8(0..4) {
        0 => one(random, "bus").id(format!("own-{}", random.u8(0..3))),
        _ => one(random, "bus"),
    };
    let published = me.broker.bus().publish(event).await?;
    world.observed().on_bus.insert(published.id);
    Ok(())
}

pub(super) async fn upkeep(world: Rc<World>, mut random: Rng, me: Process) {
    for _ in 0..random.u32(3..12) {
        let round = me.broker.transport().upkeep(&me.id, &world.routes).await;
        if let Err(error) = round {
            world.note(&format!("  {} failed: {error:?}", me.id));
            world.observed().seen.errors += 1;
        }
        rest().await;
    }
}

pub(super) async fn scheduler(world: Rc<World>) {
    let _ = fire_due(&world.db, &world.schedules).await;
}

/// Replays or drops some letters.
pub(super) async fn operator(world: Rc<World>, mut random: Rng) {
    let act = if random.u8(0..4) > 0 {
        Resolve::Replay
    } else {
        Resolve::Drop
    };
    let page = random.u32(1..6);
    let _ = resolve(&world, act, page).await;
}

pub(super) async fn resolve(world: &World, act: Resolve, page: u32) -> Result<u64, Error> {
    let now_us = world.db.clock().now_us();
    let mut tx = world.db.begin().await?;
    let mut letters = ledger::matching(&mut tx, &LetterFilter::default(), act).await?;
    letters.truncate(page as usize);
    let count = ledger::resolve(&mut tx, &letters, act, now_us).await?;
    tx.commit().await?;
    world.note(&format!("  an operator: {act:?} of {count}"));
    Ok(count)
}

/// Makes some writes fail for a while.
pub(super) async fn saboteur(world: Rc<World>, mut random: Rng) {
    let table = random.choice([
        "termitary_deliveries",
        "termitary_subscriptions",
        "sim_effects",
    ]);
    let what = random.choice(["INSERT", "UPDATE"]);
    let (table, what) = (table.unwrap(), what.unwrap());
    let sql = format!(
        "CREATE TRIGGER sim_sabotage BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, 'sabotaged'); END"
    );
    if change(&world, sql).await.is_ok() {
        for _ in 0..random.u32(1..3) {
            rest().await;
        }
    }
    let _ = repair(&world).await;
}

/// Ends every sabotage.
pub(super) async fn repair(world: &World) -> Result<(), Error> {
    change(world, "DROP TRIGGER IF EXISTS sim_sabotage".to_owned()).await
}

async fn change(world: &World, sql: String) -> Result<(), Error> {
    let mut tx = world.db.begin().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}
