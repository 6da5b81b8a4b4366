//! Deliveries under a clock that was ahead, beside a process whose clock is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::due_later::{DueLater, PAGE};
use crate::broker::Broker;
use crate::clock::{Clock, days, from_micros, hours, micros};
use crate::db::Options;
use crate::delivery::{Leased, Outcome, Route, Settlement};
use crate::inspect::LetterFilter;
use crate::ledger::{self, Lease};
use crate::prelude::*;

#[derive(Serialize, Deserialize)]
struct Made {}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

const START: i64 = 1_768_478_400_000_000;

/// One file, with a process whose clock is right and one whose clock is ten
/// days ahead.
struct Pair {
    _folder: tempfile::TempDir,
    right: Broker,
    ahead: Broker,
    route: Route,
}

impl Pair {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        let process = async |start_us: i64| {
            let clock = Clock::manual(from_micros(start_us), 1);
            let options = Options::default().clock(clock);
            Broker::sql(Db::open_with(&url, options).await.unwrap())
        };
        let right = process(START).await;
        let ahead = process(START + micros(days(10))).await;
        let registry = Registry::<()>::new().on(subscribe("made", made));
        let route = right.declare(&registry).await.unwrap().remove(0);
        Self {
            _folder: folder,
            right,
            ahead,
            route,
        }
    }

    /// One attempt by the clock that is ahead.
    async fn leased(&self) -> Leased {
        let (transport, worker) = (self.ahead.transport(), Arc::from("w"));
        let leased = transport.lease(&self.route, &worker, 1, secs(0)).await;
        leased.unwrap().remove(0)
    }

    async fn ends(&self, outcome: Outcome) {
        let claim = self.leased().await.claim;
        let settlement = Settlement { claim, outcome };
        self.ahead.transport().settle(&[settlement]).await.unwrap();
    }

    /// The worker that holds it is gone, and the clock that is ahead takes over.
    async fn crashes(&self) {
        let claim = self.leased().await.claim;
        let (seq, route, fence) = claim.row().unwrap();
        let db = self.ahead.db();
        let until_us = db.clock().now_us() + micros(secs(30));
        let lease = Lease {
            seq,
            route,
            fence,
            until_us,
        };
        let mut tx = db.begin().await.unwrap();
        let taken = ledger::crash(&mut tx, &[lease], db.clock().now_us()).await;
        assert_eq!(taken.unwrap(), 1);
        tx.commit().await.unwrap();
    }

    /// So many seconds from now, by the right clock.
    async fn waits(&self) -> i64 {
        let due: i64 = sqlx::query_scalar("SELECT due_us FROM termitary_deliveries")
            .fetch_one(&mut *self.right.db().read().await.unwrap())
            .await
            .unwrap();
        (due - self.right.db().clock().now_us()) / 1_000_000
    }

    async fn walk(&self) -> u64 {
        let mut walk = DueLater::default();
        let mut brought = 0;
        loop {
            let (rows, goes_on) = walk.step(self.right.db()).await.unwrap();
            brought += rows;
            if !goes_on {
                return brought;
            }
        }
    }

    fn in_an_hour(&self) -> i64 {
        self.ahead.db().clock().now_us() + micros(hours(1))
    }
}

#[tokio::test]
async fn what_was_published_under_a_clock_ahead_is_brought_forward() {
    let pair = Pair::new().await;
    pair.ahead.bus().publish(Made {}).await.unwrap();
    assert_eq!(pair.waits().await, 10 * 86_400);
    assert_eq!(pair.walk().await, 1);
    assert_eq!(pair.waits().await, 0);
    assert_eq!(pair.walk().await, 0);
}

#[tokio::test]
async fn what_waits_again_under_a_clock_ahead_waits_as_long_as_was_meant() {
    let pair = Pair::new().await;
    pair.right.bus().publish(Made {}).await.unwrap();
    let due_us = pair.in_an_hour();
    let error = "no".to_owned();
    pair.ends(Outcome::Retry { due_us, error }).await;
    assert_eq!(pair.waits().await, 10 * 86_400 + 3_600);
    assert_eq!(pair.walk().await, 1);
    assert_eq!(pair.waits().await, 3_600);
    assert_eq!(pair.walk().await, 0);
}

#[tokio::test]
async fn a_release_and_each_crash_under_a_clock_ahead_are_brought_forward() {
    let pair = Pair::new().await;
    pair.right.bus().publish(Made {}).await.unwrap();
    let due_us = pair.ahead.db().clock().now_us();
    pair.ends(Outcome::Snooze { due_us }).await;
    assert_eq!((pair.walk().await, pair.waits().await), (1, 0));
    pair.crashes().await;
    assert_eq!((pair.walk().await, pair.waits().await), (1, 0));
    pair.crashes().await; // now a suspect
    assert_eq!((pair.walk().await, pair.waits().await), (1, 10));
}

#[tokio::test]
async fn a_replay_under_a_clock_ahead_is_brought_forward() {
    let pair = Pair::new().await;
    pair.right.bus().publish(Made {}).await.unwrap();
    pair.ends(Outcome::Dead {
        reason: "error",
        error: "no".to_owned(),
        counted: true,
    })
    .await;
    let all = LetterFilter::default();
    pair.ahead.inspect().replay(&all, "test").await.unwrap();
    assert_eq!((pair.walk().await, pair.waits().await), (1, 0));
}

#[tokio::test]
async fn what_was_meant_to_be_late_stays_late() {
    let pair = Pair::new().await;
    let right = pair.right.bus();
    right.publish(Made {}.after(days(30))).await.unwrap();
    let at = from_micros(START + micros(days(30)));
    pair.ahead.bus().publish(Made {}.at(at)).await.unwrap();
    assert_eq!(pair.walk().await, 0);
}

#[tokio::test]
async fn while_a_worker_lives_whose_clock_is_ahead_nothing_is_changed() {
    let pair = Pair::new().await;
    pair.ahead.bus().publish(Made {}).await.unwrap();
    let mut tx = pair.right.db().begin().await.unwrap();
    sqlx::query(
        "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
         VALUES ('ahead', 'h', 0, $1, 0, 1, '[]')",
    )
    .bind(pair.ahead.db().clock().now_us())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(pair.walk().await, 0);
}

#[tokio::test]
async fn the_walk_passes_every_page_of_every_subscription() {
    let pair = Pair::new().await;
    let after = || Made {}.after(days(30));
    let late: Vec<_> = (0..PAGE).map(|_| after()).collect();
    pair.right.bus().publish_all(late).await.unwrap();
    let now: Vec<_> = (0..PAGE + 7).map(|_| Made {}).collect();
    pair.ahead.bus().publish_all(now).await.unwrap();
    assert_eq!(pair.walk().await, PAGE as u64 + 7);
}

#[tokio::test]
async fn what_a_clock_ahead_holds_is_looked_after_now_and_a_usual_lease_left_alone() {
    let pair = Pair::new().await;
    pair.right.bus().publish(Made {}).await.unwrap();
    let held = async || -> i64 {
        let until: i64 = sqlx::query_scalar("SELECT lease_us FROM termitary_deliveries")
            .fetch_one(&mut *pair.right.db().read().await.unwrap())
            .await
            .unwrap();
        (until - pair.right.db().clock().now_us()) / 1_000_000
    };
    pair.leased().await;
    assert_eq!(held().await, 10 * 86_400 + 30);
    assert_eq!((pair.walk().await, held().await), (1, 0));
    let now_us = pair.right.db().clock().now_us();
    let mut tx = pair.right.db().begin().await.unwrap();
    sqlx::query("UPDATE termitary_deliveries SET lease_us = $1")
        .bind(now_us + micros(minutes(15)))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!((pair.walk().await, held().await), (0, 15 * 60));
}
