//! Readers and registrations beside a transaction that has published and is open still.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Transaction};

use crate::broadcast::Broadcasts;
use crate::clock::micros;
use crate::ledger::retention::{RETENTION, Walk};
use crate::ledger::single_writer::{Table, newest};
use crate::ledger::{backfill, broadcasts};
use crate::lock::Mutex;
use crate::prelude::*;
use crate::testing::{TestDb, TestWorker};

/// A reader that does not stop would have read by then.
const SOON: Duration = Duration::from_millis(300);

#[derive(Serialize, Deserialize)]
struct Noted {
    n: u32,
}

impl Event for Noted {
    const NAME: &'static str = "notes.noted";
}

/// An earlier name of the same.
#[derive(Serialize, Deserialize)]
struct Written {
    n: u32,
}

impl Event for Written {
    const NAME: &'static str = "notes.written";
}

/// The event of code that knows both names.
#[derive(Serialize, Deserialize)]
struct Renamed {
    n: u32,
}

impl Event for Renamed {
    const NAME: &'static str = "notes.noted";
    const ALIASES: &'static [&'static str] = &["notes.written"];
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u32>>>);

impl Seen {
    fn all(&self) -> Vec<u32> {
        let mut seen = self.0.lock().clone();
        seen.sort_unstable();
        seen
    }
}

async fn see(event: Noted, State(seen): State<Seen>) -> HandlerResult {
    seen.0.lock().push(event.n);
    Ok(())
}

async fn see_renamed(event: Renamed, State(seen): State<Seen>) -> HandlerResult {
    seen.0.lock().push(event.n);
    Ok(())
}

struct World {
    test: TestDb,
    broker: Broker,
    pool: PgPool,
}

impl World {
    async fn new() -> Self {
        let test = TestDb::postgres_with(crate::Clock::system()).await;
        Self {
            broker: Broker::sql(test.db().clone()),
            pool: PgPool::connect(&test.url()).await.unwrap(),
            test,
        }
    }

    fn db(&self) -> &Db {
        self.test.db()
    }

    async fn published<E: Event>(&self, event: E) {
        self.broker.bus().publish(event).await.unwrap();
    }

    /// A transaction that has published and goes on.
    async fn open<E: Event>(&self, event: E) -> Transaction<'static, Postgres> {
        let mut open = self.pool.begin().await.unwrap();
        open.publish(self.db(), event).await.unwrap();
        open
    }
}

#[tokio::test]
async fn the_number_of_the_one_transaction_that_runs_is_not_decided() {
    let world = World::new().await;
    let decided = async || newest(world.db(), Table::Events).await.unwrap();
    let before = decided().await;
    let open = world.open(Noted { n: 1 }).await;
    // Nobody else commits: the snapshot ends at this transaction's own id.
    assert_eq!(decided().await, before);
    open.commit().await.unwrap();
    // Transactions of other databases on the server count, too.
    while decided().await != before + 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_tail_waits_for_an_open_transaction_and_then_has_its_event_in_order() {
    let world = World::new().await;
    let mut tail = world.broker.inspect().tail().await.unwrap();
    let open = world.open(Noted { n: 1 }).await;
    world.published(Noted { n: 2 }).await;
    let early = tokio::time::timeout(SOON, tail.next()).await;
    assert!(early.is_err(), "{early:?}");
    open.commit().await.unwrap();
    for expected in [r#"{"n":1}"#, r#"{"n":2}"#] {
        assert_eq!(tail.next().await.unwrap().data.get(), expected);
    }
}

#[tokio::test]
async fn a_broadcast_of_an_open_transaction_is_heard_before_those_after_it() {
    let world = World::new().await;
    let all = Broadcasts::sql(world.db().clone());
    let mut heard = all.subscribe();
    let mut open = world.db().begin().await.unwrap();
    let now = world.db().clock().now_us();
    broadcasts::send(&mut open, "a", "one", now).await.unwrap();
    all.send("a", "two").await.unwrap();
    let early = tokio::time::timeout(SOON, heard.recv()).await;
    assert!(early.is_err(), "{early:?}");
    open.commit().await.unwrap();
    for expected in ["one", "two"] {
        assert_eq!(heard.recv().await.unwrap().data, expected);
    }
}

#[tokio::test]
async fn retention_deletes_nothing_that_became_visible_behind_it() {
    let world = World::new().await;
    let registry = Registry::<Seen>::new().on(subscribe("notes.see", see));
    world.broker.register(&registry).await.unwrap();
    let mut open = world.open(Noted { n: 1 }).await;
    let old = world.db().clock().now_us() - micros(RETENTION) - 1;
    sqlx::query("UPDATE termitary.termitary_events SET time_us = $1")
        .bind(old)
        .execute(&mut *open)
        .await
        .unwrap();
    let mut broadcast = world.db().begin().await.unwrap();
    broadcasts::send(&mut broadcast, "a", "one", old)
        .await
        .unwrap();
    Broadcasts::sql(world.db().clone())
        .send("a", "two")
        .await
        .unwrap();
    world.published(Noted { n: 2 }).await;
    let mut walk = Walk::default();
    for _ in 0..2 {
        while walk.step(world.db()).await.unwrap() {}
    }
    open.commit().await.unwrap();
    broadcast.commit().await.unwrap();
    while walk.step(world.db()).await.unwrap() {}
    let kept: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM termitary_broadcasts WHERE data = 'one'), (SELECT count(*) FROM termitary_events)",
    )
    .fetch_one(&mut *world.db().read().await.unwrap())
    .await
    .unwrap();
    assert_eq!(kept, (1, 2));
}

#[tokio::test]
async fn the_retained_past_is_copied_up_to_an_open_transaction_and_then_past_it() {
    let world = World::new().await;
    let seen = Seen::default();
    world.published(Noted { n: 1 }).await;
    // As the workers of this process do all the time.
    while newest(world.db(), Table::Events).await.unwrap() < 1 {
        tokio::time::sleep(SOON / 10).await;
    }
    let open = world.open(Noted { n: 2 }).await;
    world.published(Noted { n: 3 }).await;
    let registry = Registry::new().on(subscribe("notes.see", see).from_retained());
    let worker = TestWorker::start(world.broker.clone(), registry, seen.clone()).await;
    while seen.all().is_empty() {
        tokio::time::sleep(SOON / 10).await;
    }
    tokio::time::sleep(SOON).await;
    assert_eq!(seen.all(), [1]);
    assert!(backfill::next(world.db()).await.unwrap().is_some());
    open.commit().await.unwrap();
    worker.settle().await;
    world.published(Noted { n: 4 }).await;
    worker.settle().await;
    assert_eq!(seen.all(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_new_subscription_gets_the_events_of_a_transaction_that_was_open() {
    let world = World::new().await;
    let seen = Seen::default();
    world.published(Noted { n: 1 }).await;
    let mut open = world.open(Noted { n: 2 }).await;
    let rolled_back = world.open(Noted { n: 3 }).await;
    world.published(Noted { n: 4 }).await;
    let registry = Registry::new().on(subscribe("notes.see", see));
    let worker = TestWorker::start(world.broker.clone(), registry, seen.clone()).await;
    open.publish(world.db(), Noted { n: 5 }).await.unwrap();
    world.published(Noted { n: 6 }).await;
    open.commit().await.unwrap();
    rolled_back.rollback().await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), [2, 5, 6], "and nothing from before");
}

#[tokio::test]
async fn a_new_alias_gets_the_events_of_a_transaction_that_was_open() {
    let world = World::new().await;
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("notes.see", see));
    world.broker.register(&registry).await.unwrap();
    world.published(Written { n: 1 }).await;
    world.published(Noted { n: 2 }).await;
    let mut open = world.open(Written { n: 3 }).await;
    open.publish(world.db(), Noted { n: 4 }).await.unwrap();
    let registry = Registry::new().on(subscribe("notes.see", see_renamed));
    let worker = TestWorker::start(world.broker.clone(), registry, seen.clone()).await;
    open.publish(world.db(), Written { n: 5 }).await.unwrap();
    open.commit().await.unwrap();
    world.published(Written { n: 6 }).await;
    worker.settle().await;
    assert_eq!(seen.all(), [2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_new_subscription_gets_the_events_of_a_transaction_that_reads_the_old_routes() {
    let world = World::new().await;
    let seen = Seen::default();
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    let mut old = world.pool.begin_with(begin).await.unwrap();
    sqlx::query("SELECT 1 FROM pg_class")
        .execute(&mut *old)
        .await
        .unwrap();
    let registry = Registry::new().on(subscribe("notes.see", see));
    let worker = TestWorker::start(world.broker.clone(), registry, seen.clone()).await;
    world.published(Noted { n: 1 }).await;
    while seen.all().is_empty() {
        tokio::time::sleep(SOON / 10).await;
    }
    old.publish(world.db(), Noted { n: 2 }).await.unwrap();
    world.published(Noted { n: 3 }).await;
    old.commit().await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), [1, 2, 3]);
}
