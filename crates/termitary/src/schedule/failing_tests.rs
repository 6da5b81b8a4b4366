//! Schedules that cannot make their events, beside others that can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use super::status::list;
use super::ticker::Ticker;
use super::{CatchUp, Schedule, Tick, fire, schedule};
use crate::clock::{ahead, hours, minutes, secs};
use crate::db::Db;
use crate::event::{Event, MAX_DATA_BYTES};
use crate::inspect::ScheduleStatus;
use crate::ledger::ticks::{declare, pause};
use crate::testing::TestDb;

#[derive(serde::Serialize, serde::Deserialize)]
struct Rung {
    text: String,
}

impl Event for Rung {
    const NAME: &'static str = "bell.rung";
}

fn hourly(name: &str, make: impl Fn(Tick) -> String + Send + Sync + 'static) -> Schedule {
    schedule(name, "0 * * * *", move |tick| Rung { text: make(tick) })
}

fn good(name: &str) -> Schedule {
    let text = name.to_owned();
    hourly(name, move |_| text.clone())
}

async fn record(db: &Db, schedules: &[Schedule]) {
    let mut tx = db.begin().await.unwrap();
    for schedule in schedules {
        declare(&mut tx, &schedule.declared(), db.clock().now_us())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// The names of the schedules that published, in order.
async fn rung(db: &Db) -> Vec<String> {
    sqlx::query_scalar("SELECT data->>'text' FROM termitary_events ORDER BY seq")
        .fetch_all(&mut *db.read().await.unwrap())
        .await
        .unwrap()
}

async fn status(db: &Db, name: &str) -> ScheduleStatus {
    let all = list(db).await.unwrap();
    all.into_iter().find(|one| one.name == name).unwrap()
}

async fn failure(db: &Db, name: &str) -> Option<String> {
    status(db, name).await.failing.map(|failing| failing.error)
}

#[tokio::test]
async fn a_schedule_that_cannot_make_its_event_hinders_no_other_and_is_shown() {
    let test = TestDb::open().await;
    let db = test.db();
    let all = [
        hourly("large", |_| "x".repeat(MAX_DATA_BYTES)),
        hourly("broken", |_| panic!("no bell")),
        good("sound"),
    ];
    record(db, &all).await;
    let mut ticker = Ticker::new(db.clone(), &all);
    db.clock().advance(hours(1));
    let noticed = db.clock().now();
    ticker.look().await.unwrap();
    assert_eq!(rung(db).await, ["sound"]);
    assert!(
        failure(db, "large")
            .await
            .unwrap()
            .contains("more than the 262144 allowed")
    );
    assert!(
        failure(db, "broken")
            .await
            .unwrap()
            .contains("panicked: no bell")
    );
    assert_eq!(failure(db, "sound").await, None);

    ahead::advance(minutes(2));
    db.clock().advance(hours(1));
    ticker.look().await.unwrap();
    assert_eq!(rung(db).await, ["sound", "sound"]);
    let failing = status(db, "broken").await.failing.unwrap();
    assert_eq!(
        failing.since, noticed,
        "since when it fails, not since the last try"
    );
}

#[tokio::test]
async fn a_schedule_that_recovers_publishes_what_waited_and_is_shown_no_more() {
    let test = TestDb::open().await;
    let db = test.db();
    let works = Arc::new(AtomicBool::new(false));
    let bell = Arc::clone(&works);
    let all = [hourly("bell", move |tick| {
        assert!(bell.load(Ordering::Relaxed), "no bell yet");
        tick.at.to_string()
    })];
    record(db, &all).await;
    let mut ticker = Ticker::new(db.clone(), &all);
    db.clock().advance(hours(1));
    ticker.look().await.unwrap();
    assert!(failure(db, "bell").await.is_some());

    works.store(true, Ordering::Relaxed);
    ticker.look().await.unwrap();
    assert!(rung(db).await.is_empty(), "the next try is in a second");
    assert!(!ticker.is_time());
    ahead::advance(secs(1));
    assert!(ticker.is_time());
    ticker.look().await.unwrap();
    assert_eq!(rung(db).await, ["2026-01-15T13:00:00Z"]);
    assert_eq!(failure(db, "bell").await, None);
}

#[tokio::test]
async fn one_tick_that_cannot_be_made_keeps_back_no_other_of_its_schedule() {
    let test = TestDb::open().await;
    let db = test.db();
    let bad: Timestamp = "2026-01-15T14:00:00Z".parse().unwrap();
    let works = Arc::new(AtomicBool::new(false));
    let bell = Arc::clone(&works);
    let make = move |tick: Tick| {
        assert!(tick.at != bad || bell.load(Ordering::Relaxed), "not at two");
        tick.at.to_string()
    };
    let one = hourly("bell", make).catch_up(CatchUp::All(10));
    let rule = one.rule().unwrap();
    record(db, std::slice::from_ref(&one)).await;
    db.clock().advance(hours(3));
    for _ in 0..2 {
        let failed = fire::settle(db, &one, &rule, db.clock().now())
            .await
            .unwrap();
        assert!(failed.is_some());
        assert_eq!(
            rung(db).await,
            ["2026-01-15T13:00:00Z", "2026-01-15T15:00:00Z"]
        );
    }
    works.store(true, Ordering::Relaxed);
    let failed = fire::settle(db, &one, &rule, db.clock().now())
        .await
        .unwrap();
    assert!(failed.is_none());
    assert_eq!(rung(db).await.last().unwrap(), "2026-01-15T14:00:00Z");
    assert_eq!(failure(db, "bell").await, None);
}

#[tokio::test]
async fn a_schedule_whose_row_the_database_refuses_hinders_no_other() {
    let test = TestDb::open().await;
    let db = test.db();
    let all = [good("first"), good("second"), good("third")];
    record(db, &all).await;
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON termitary_ticks WHEN NEW.schedule = 'first'
         BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let mut ticker = Ticker::new(db.clone(), &all);
    db.clock().advance(hours(1));
    assert!(ticker.look().await.unwrap_err().is_unavailable());
    assert!(ticker.is_time(), "the others are due still");
    ticker.look().await.unwrap_err();
    assert_eq!(rung(db).await, ["second", "third"]);
}

#[tokio::test]
async fn a_panic_of_a_schedule_run_by_hand_is_an_error_that_names_it() {
    let test = TestDb::open().await;
    let one = hourly("bell", |_| panic!("no bell"));
    let error = fire::run_now(test.db(), &one, "test").await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("`bell`") && said.contains("no bell"),
        "{said}"
    );
}

#[tokio::test]
async fn a_pause_holds_for_a_schedule_that_fails() {
    let test = TestDb::open().await;
    let db = test.db();
    let one = hourly("bell", |_| panic!("no bell"));
    let rule = one.rule().unwrap();
    record(db, std::slice::from_ref(&one)).await;
    db.clock().advance(hours(1));
    fire::settle(db, &one, &rule, db.clock().now())
        .await
        .unwrap();
    let mut tx = db.begin().await.unwrap();
    pause(&mut tx, "bell", true, db.clock().now_us())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    db.clock().advance(hours(1));
    let failed = fire::settle(db, &one, &rule, db.clock().now())
        .await
        .unwrap();
    assert!(failed.is_none(), "nothing is made in a pause");
}
