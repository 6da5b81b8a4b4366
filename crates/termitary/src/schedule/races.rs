//! Many schedulers on one ledger: seeded runs in which they race, die in the
//! middle of a transaction and have wrong clocks.

use std::collections::BTreeSet;
use std::future::Future;
use std::task::Poll;

use jiff::{SignedDuration, Timestamp};

use super::ticker::fire_due;
use super::{CatchUp, Rule, Schedule, Tick, schedule};
use crate::clock::{Clock, from_micros, secs};
use crate::db::{Db, Options};
use crate::event::Event;
use crate::ledger::ticks::declare;

#[derive(serde::Serialize, serde::Deserialize)]
struct Due {
    at: String,
}

impl Event for Due {
    const NAME: &'static str = "race.due";
}

const RULE: &str = "*/7 * * * *";
const SEEDS: std::ops::Range<u64> = 0..40;

fn every_seven_minutes() -> Schedule {
    schedule("race", RULE, |tick: Tick| Due {
        at: tick.at.to_string(),
    })
    .catch_up(CatchUp::All(10_000))
}

/// One scheduler process: its own connections, its own clock.
struct Scheduler {
    db: Db,
    schedules: Vec<Schedule>,
}

impl Scheduler {
    async fn open(url: &str, now: Timestamp, schedule: Schedule) -> Self {
        let clock = Clock::manual(now, 1);
        let db = Db::open_with(url, Options::default().clock(clock))
            .await
            .unwrap();
        let mut tx = db.begin_own().await.unwrap();
        declare(&mut tx, &schedule.declared(), db.clock().now_us())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        Self {
            db,
            schedules: vec![schedule],
        }
    }

    async fn fire(&self) {
        // Busy: another one writes; it is tried again at the next look.
        let _ = fire_due(&self.db, &self.schedules).await;
    }

    /// Dies after `steps` polls of its work.
    async fn fire_and_die(&self, steps: usize) {
        let mut left = steps;
        let mut work = Box::pin(self.fire());
        std::future::poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            work.as_mut().poll(cx)
        })
        .await;
    }
}

/// The instants that were published, as often as they were.
async fn published(db: &Db) -> Vec<Timestamp> {
    let data: Vec<String> = sqlx::query_scalar(
        "SELECT data FROM termitary_events WHERE name = 'race.due' ORDER BY seq",
    )
    .fetch_all(&mut *db.read().await.unwrap())
    .await
    .unwrap();
    data.iter()
        .map(|json| {
            let due: Due = serde_json::from_str(json).unwrap();
            due.at.parse().unwrap()
        })
        .collect()
}

fn instants(from: Timestamp, until: Timestamp) -> BTreeSet<Timestamp> {
    let rule = Rule::parse(RULE, "UTC").unwrap();
    let mut all = BTreeSet::new();
    let mut at = from;
    while let Some(next) = rule.next_after(at).filter(|&next| next <= until) {
        all.insert(next);
        at = next;
    }
    all
}

fn start() -> Timestamp {
    "2026-03-01T00:00:30Z".parse().unwrap()
}

#[tokio::test]
async fn every_tick_is_published_once_however_many_schedulers_race_and_die() {
    for seed in SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("race.db").display());
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(Scheduler::open(&url, start(), every_seven_minutes()).await);
        }
        for _ in 0..12 {
            let by = secs(random.u64(1..2_000));
            for one in &all {
                one.db.clock().advance(by);
            }
            match random.u8(0..4) {
                0 => drop(tokio::join!(all[0].fire(), all[1].fire(), all[2].fire())),
                1 => all[random.usize(0..3)].fire().await,
                2 => {
                    all[random.usize(0..3)]
                        .fire_and_die(random.usize(1..30))
                        .await;
                }
                _ => {} // nobody runs
            }
        }
        all[0].fire().await;
        let (found, now) = (published(&all[0].db).await, all[0].db.clock().now());
        let expected: Vec<_> = instants(start(), now).into_iter().collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn wrong_clocks_publish_no_tick_twice_and_none_that_the_rule_does_not_name() {
    for seed in SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("race.db").display());
        let mut all = Vec::new();
        for hours in [-1, 0, 1] {
            let now = start() + SignedDuration::from_hours(hours);
            all.push(Scheduler::open(&url, now, every_seven_minutes()).await);
        }
        for _ in 0..12 {
            let by = secs(random.u64(1..2_000));
            for one in &all {
                one.db.clock().advance(by);
            }
            all[random.usize(0..3)].fire().await;
        }
        for one in &all {
            one.fire().await;
        }
        let found = published(&all[0].db).await;
        let once: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "seed {seed}: a tick came twice");
        // The first declaration is the earliest clock's; the latest ran last.
        let latest = all[2].db.clock().now();
        let named = instants(start() - SignedDuration::from_hours(1), latest);
        assert!(once.is_subset(&named), "seed {seed}");
        let missing: Vec<_> = named.difference(&once).collect();
        assert!(
            missing.is_empty(),
            "seed {seed}: never published {missing:?}"
        );
    }
}

#[tokio::test]
async fn an_old_process_does_not_publish_by_a_rule_that_was_edited() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("race.db").display());
    let old = Scheduler::open(&url, start(), every_seven_minutes()).await;
    let edited = schedule("race", "30 * * * *", |tick: Tick| Due {
        at: tick.at.to_string(),
    });
    let new = Scheduler::open(&url, start(), edited).await;
    for one in [&old, &new] {
        one.db.clock().advance(secs(3_600));
        one.fire().await;
    }
    assert_eq!(
        published(&new.db).await,
        [from_micros(1_772_325_000_000_000)]
    );
}

#[tokio::test]
async fn a_tick_that_the_policy_skips_leaves_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("race.db").display());
    let skipping = every_seven_minutes().catch_up(CatchUp::Skip);
    let one = Scheduler::open(&url, start(), skipping).await;
    one.db.clock().advance(secs(3_600 + 300));
    one.fire().await;
    let rows: Vec<(i64, Option<uuid::Uuid>)> =
        sqlx::query_as("SELECT tick_us, event FROM termitary_ticks")
            .fetch_all(&mut *one.db.read().await.unwrap())
            .await
            .unwrap();
    let last = Rule::parse(RULE, "UTC")
        .unwrap()
        .last_until(one.db.clock().now())
        .unwrap();
    assert_eq!(rows, [(last.as_microsecond(), None)]);
    assert!(published(&one.db).await.is_empty());
}
