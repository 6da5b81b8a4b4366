//! Several workers on one file, one of them with a clock that is an hour off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jiff::{Span, Timestamp};
use termitary::db::Options;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestWorker};
use termitary::{Broker, Clock};
use tokio::sync::Notify;

use crate::processes::PATIENCE;
use crate::suspects::Fed;

const LEASE: Duration = Duration::from_millis(1200);

#[derive(Clone, Default)]
struct Meal(Arc<Courses>);

#[derive(Default)]
struct Courses {
    begun: AtomicU32,
    over: Notify,
}

async fn feast(_: Fed, State(Meal(courses)): State<Meal>) -> HandlerResult {
    courses.begun.fetch_add(1, Ordering::SeqCst);
    courses.over.notified().await;
    Ok(())
}

fn registry() -> Registry<Meal> {
    Registry::new().on(subscribe("guests.feast", feast))
}

/// A clock that runs, and is so many hours off.
fn off_by(hours: i64) -> Clock {
    let start = Timestamp::now() + Span::new().hours(hours);
    let clock = Clock::manual(start, 7);
    let hands = clock.clone();
    tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            hands.advance(last.elapsed());
            last = Instant::now();
        }
    });
    clock
}

/// Another process on the same file.
async fn broker(db: &TestDb, hours: i64) -> Broker {
    let url = format!("sqlite://{}", db.db().place());
    let options = Options::default().clock(off_by(hours));
    let db = Db::open_with(&url, options).await.unwrap();
    Broker::builder(db).lease(LEASE).sql()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn crashes(db: &TestDb) -> i64 {
    sqlx::query_scalar("SELECT CAST(SUM(crashes) AS BIGINT) FROM termitary_deliveries")
        .fetch_one(&mut *db.db().read().await.unwrap())
        .await
        .unwrap()
}

/// One worker runs a delivery for several leases; another one, whose clock differs by this many
/// hours, does the housekeeping meanwhile.
async fn a_live_lease_among_clocks(runs: i64, looks: i64) {
    let db = TestDb::open_with(off_by(0)).await;
    let (meal, idle) = (Meal::default(), Meal::default());
    let running = broker(&db, runs).await;
    let mut worker = TestWorker::start(running.clone(), registry(), meal.clone()).await;
    running.bus().publish(Fed { n: 1 }).await.unwrap();
    eventually("it runs", async || meal.0.begun.load(Ordering::SeqCst) == 1).await;
    let mut other = TestWorker::start(broker(&db, looks).await, registry(), idle.clone()).await;
    tokio::time::sleep(LEASE * 4).await;
    assert_eq!(crashes(&db).await, 0, "nobody took it over");
    meal.0.over.notify_one();
    eventually("it is done", async || {
        worker.status().await.subscriptions[0].done == 1
    })
    .await;
    assert_eq!(idle.0.begun.load(Ordering::SeqCst), 0);
    worker.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_ahead_takes_no_live_lease() {
    a_live_lease_among_clocks(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_behind_keeps_its_leases() {
    a_live_lease_among_clocks(-1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_dead_worker_whose_clock_was_ahead_ends_all_the_same() {
    let db = TestDb::open_with(off_by(0)).await;
    let meal = Meal::default();
    let broker = broker(&db, 0).await;
    broker.register(&registry()).await.unwrap();
    broker.bus().publish(Fed { n: 1 }).await.unwrap();
    let mut tx = db.db().begin().await.unwrap();
    let in_an_hour = (Timestamp::now() + Span::new().hours(1)).as_microsecond();
    sqlx::query(
        "UPDATE termitary_deliveries SET state = 1, fence = 1, worker = 'gone', lease_us = $1",
    )
    .bind(in_an_hour)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let mut worker = TestWorker::start(broker, registry(), meal.clone()).await;
    eventually("it runs", async || meal.0.begun.load(Ordering::SeqCst) == 1).await;
    assert_eq!(crashes(&db).await, 1);
    meal.0.over.notify_one();
    worker.settle().await;
    worker.stop().await;
}
