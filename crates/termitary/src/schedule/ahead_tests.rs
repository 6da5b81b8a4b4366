//! Schedules after a clock that was ahead, with processes that have each a clock of
//! their own.

use jiff::Timestamp;

use super::status::list;
use super::ticker::{Ticker, fire_due};
use super::{CatchUp, Schedule, Tick, schedule};
use crate::clock::{Clock, ahead, secs};
use crate::db::{Db, Options};
use crate::event::Event;
use crate::inspect::ScheduleStatus;
use crate::ledger::ticks::{declare, pause};

#[derive(serde::Serialize, serde::Deserialize)]
struct Due {
    at: String,
}

impl Event for Due {
    const NAME: &'static str = "late.due";
}

fn by(cron: &str) -> Schedule {
    schedule("late", cron, |tick: Tick| Due {
        at: tick.at.to_string(),
    })
}

/// A file that several processes share.
struct File {
    folder: tempfile::TempDir,
    schedules: [Schedule; 1],
}

impl File {
    fn new(schedule: Schedule) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            schedules: [schedule],
        }
    }

    /// Another process, whose clock shows `now`.
    async fn process(&self, now: &str) -> Db {
        let url = format!("sqlite://{}", self.folder.path().join("late.db").display());
        let clock = Clock::manual(at(now), 1);
        let db = Db::open_with(&url, Options::default().clock(clock))
            .await
            .unwrap();
        let mut tx = db.begin().await.unwrap();
        declare(&mut tx, &self.schedules[0].declared(), db.clock().now_us())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        db
    }

    async fn fire(&self, db: &Db, now: &str) {
        db.clock().set(at(now));
        fire_due(db, &self.schedules).await.unwrap();
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

async fn published(db: &Db) -> Vec<String> {
    sqlx::query_scalar("SELECT data->>'at' FROM termitary_events ORDER BY seq")
        .fetch_all(&mut *db.read().await.unwrap())
        .await
        .unwrap()
}

async fn status(db: &Db) -> ScheduleStatus {
    list(db).await.unwrap().remove(0)
}

async fn next(db: &Db) -> String {
    status(db).await.next.unwrap().to_string()
}

/// A worker signs in, as living ones do every few seconds.
async fn sign_in(db: &Db, id: &str) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
         VALUES ($1, 'h', 0, $2, 0, 1, '[]')
         ON CONFLICT (id) DO UPDATE SET seen_us = excluded.seen_us")
        .bind(id)
        .bind(db.clock().now_us())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_schedule_goes_on_after_a_clock_that_was_ahead_by_days() {
    let file = File::new(by("0 6 * * *"));
    let right = file.process("2026-03-01T12:00:00Z").await;
    let wrong = file.process("2026-03-01T12:00:00Z").await;
    file.fire(&wrong, "2026-03-11T12:00:00Z").await;
    assert_eq!(published(&right).await, ["2026-03-11T06:00:00Z"]);
    assert_eq!(next(&right).await, "2026-03-02T06:00:00Z");
    assert_eq!(
        status(&right).await.settled_ahead,
        Some(at("2026-03-11T12:00:00Z"))
    );

    file.fire(&right, "2026-03-01T12:00:10Z").await;
    assert_eq!(status(&right).await.settled_ahead, None);
    for day in 2..=12 {
        file.fire(&right, &format!("2026-03-{day:02}T06:00:01Z"))
            .await;
    }
    let mut found = published(&right).await;
    found.sort();
    let expected: Vec<_> = (2..=12)
        .map(|day| format!("2026-03-{day:02}T06:00:00Z"))
        .collect();
    assert_eq!(found, expected, "each tick once, the early one too");
    let acts: Vec<String> = sqlx::query_scalar("SELECT act FROM termitary_audit")
        .fetch_all(&mut *right.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(acts, ["bring-back"]);
}

#[tokio::test]
async fn a_tick_that_a_clock_ahead_skipped_as_missed_is_published_at_its_time() {
    let file = File::new(by("0 6 * * MON"));
    let right = file.process("2026-03-01T12:00:00Z").await; // a Sunday
    let wrong = file.process("2026-03-01T12:00:00Z").await;
    // Less than an interval ahead, and the tick seems older than a day.
    file.fire(&wrong, "2026-03-04T12:00:00Z").await;
    assert!(published(&right).await.is_empty());
    assert_eq!(next(&right).await, "2026-03-02T06:00:00Z");
    file.fire(&right, "2026-03-01T12:00:10Z").await;
    file.fire(&right, "2026-03-02T06:00:01Z").await;
    assert_eq!(published(&right).await, ["2026-03-02T06:00:00Z"]);
}

#[tokio::test]
async fn a_tick_published_early_is_not_published_again_and_not_named_as_the_next() {
    let file = File::new(by("0 6 * * *").catch_up(CatchUp::All(100)));
    let right = file.process("2026-03-01T12:00:00Z").await;
    let wrong = file.process("2026-03-01T12:00:00Z").await;
    file.fire(&wrong, "2026-03-04T12:00:00Z").await;
    assert_eq!(published(&right).await.len(), 3);
    assert_eq!(next(&right).await, "2026-03-05T06:00:00Z");
    for day in 2..=5 {
        file.fire(&right, &format!("2026-03-{day:02}T06:00:01Z"))
            .await;
    }
    assert_eq!(published(&right).await.len(), 4);
}

#[tokio::test]
async fn a_pause_and_a_change_under_a_clock_that_was_ahead_hold_no_longer_than_they_should() {
    let file = File::new(by("0 6 * * *"));
    let right = file.process("2026-03-01T12:00:00Z").await;
    let wrong = file.process("2026-03-11T12:00:00Z").await;
    for paused in [true, false] {
        let mut tx = wrong.begin().await.unwrap();
        pause(&mut tx, "late", paused, wrong.clock().now_us())
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    file.fire(&right, "2026-03-01T12:00:10Z").await;
    file.fire(&right, "2026-03-02T06:00:01Z").await;
    assert_eq!(published(&right).await, ["2026-03-02T06:00:00Z"]);
}

#[tokio::test]
async fn what_a_living_worker_settled_by_its_clock_stays_settled() {
    let file = File::new(by("0 6 * * MON"));
    let right = file.process("2026-03-01T12:00:00Z").await;
    let wrong = file.process("2026-03-01T12:00:00Z").await;
    file.fire(&wrong, "2026-03-04T12:00:00Z").await;
    sign_in(&wrong, "ahead").await;
    file.fire(&right, "2026-03-01T12:00:10Z").await;
    assert_eq!(status(&right).await.settled_ahead, None);
    assert_eq!(
        next(&right).await,
        "2026-03-09T06:00:00Z",
        "by the clock ahead"
    );

    // Its clock is set right, and it goes on signing in.
    wrong.clock().set(at("2026-03-01T12:00:20Z"));
    sign_in(&wrong, "ahead").await;
    file.fire(&right, "2026-03-01T12:00:20Z").await;
    assert_eq!(next(&right).await, "2026-03-02T06:00:00Z");
}

#[tokio::test]
async fn clocks_that_differ_by_seconds_bring_nothing_back() {
    let file = File::new(by("*/5 * * * * *"));
    let right = file.process("2026-03-01T12:00:00Z").await;
    let quick = file.process("2026-03-01T12:00:00Z").await;
    file.fire(&quick, "2026-03-01T12:00:31Z").await;
    file.fire(&right, "2026-03-01T12:00:01Z").await;
    let audited: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM termitary_audit")
        .fetch_one(&mut *right.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(audited, 0);
    assert_eq!(next(&right).await, "2026-03-01T12:00:35Z");
}

#[tokio::test]
async fn a_process_whose_own_clock_is_set_back_looks_at_once() {
    let file = File::new(by("0 6 * * *"));
    let db = file.process("2026-03-11T12:00:00Z").await;
    let mut ticker = Ticker::new(db.clone(), &file.schedules);
    ticker.look().await.unwrap();
    assert!(!ticker.is_time());
    db.clock().set(at("2026-03-01T12:00:00Z"));
    assert!(ticker.is_time());
    ticker.look().await.unwrap();
    db.clock().set(at("2026-03-02T06:00:00Z"));
    assert!(ticker.is_time());
    ticker.look().await.unwrap();
    assert_eq!(published(&db).await, ["2026-03-02T06:00:00Z"]);
}

#[tokio::test]
async fn a_schedule_is_looked_at_now_and_then_whatever_the_clock_says() {
    let file = File::new(by("0 6 * * *"));
    let db = file.process("2026-03-01T12:00:00Z").await;
    let mut ticker = Ticker::new(db.clone(), &file.schedules);
    ticker.look().await.unwrap();
    ahead::advance(secs(9));
    assert!(!ticker.is_time());
    ahead::advance(secs(2));
    assert!(ticker.is_time());
}
