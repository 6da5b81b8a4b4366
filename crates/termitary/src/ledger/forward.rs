//! Deliveries that a clock which was ahead has made due on a day that is still to
//! come: brought forward, or they would wait until then.
//!
//! A delivery that waits again (after an error, a snooze, a crash, a release, a
//! replay) holds in `settled_us` when that was decided, by the same clock as its
//! due time: the wait between the two is what was meant. One that was never leased
//! and was due when it was published holds the time of its event. What was
//! published for a later time is due then, whatever the clock said.

use serde_json::json;
use sqlx::SqliteConnection;

use crate::agreed;
use crate::db::Db;
use crate::error::Error;

/// How many rows one statement reads.
const PAGE: i64 = 500;

/// A walk through what is due later, one subscription after the other.
#[derive(Default)]
pub(crate) struct Forward {
    /// The subscription, and the last row that was read.
    at: Place,
}

/// Subscription, due time, event.
type Place = (i64, i64, i64);

/// A delivery that waits for the wrong time: event, subscription, due time, and
/// when that was decided.
type Wrong = (i64, i64, i64, i64);

#[derive(sqlx::FromRow)]
struct Later {
    event: i64,
    subscription: i64,
    due_us: i64,
    decided_us: Option<i64>,
}

/// By the index of what is pending; a suspect is found by that of suspects.
const PENDING: &str = "
    SELECT d.event, d.subscription, d.due_us,
        COALESCE(d.settled_us, (SELECT e.time_us FROM termitary_events e WHERE e.seq = d.event AND e.time_us = d.due_us)) AS decided_us
    FROM termitary_deliveries d
    WHERE d.state = 0 AND d.subscription = $1 AND d.due_us > $2 AND (d.due_us, d.event) > ($3, $4)
    ORDER BY d.due_us, d.event LIMIT $5 + 0";

const SUSPECTS: &str = "
    SELECT event, subscription, due_us, settled_us AS decided_us FROM termitary_deliveries
    WHERE crashes >= 2 AND state <= 1 AND state = -1 AND due_us > $1 LIMIT $2 + 0";

impl Forward {
    /// Looks at one page, and brings forward what waits for the wrong time. Returns
    /// how many, and whether there may be more to look at.
    pub(crate) async fn step(&mut self, db: &Db) -> Result<(u64, bool), Error> {
        let latest_us = agreed::latest(db).await?;
        let mut conn = db.reader().acquire().await?;
        let (page, goes_on) = self.page(&mut conn, latest_us).await?;
        drop(conn);
        let wrong: Vec<Wrong> = page
            .into_iter()
            .filter_map(|row| {
                let decided_us = row.decided_us.filter(|&us| us > latest_us)?;
                Some((row.event, row.subscription, row.due_us, decided_us))
            })
            .collect();
        Ok((bring(db, &wrong).await?, goes_on))
    }

    /// The next rows that are due later than any clock allows.
    async fn page(
        &mut self,
        conn: &mut SqliteConnection,
        latest_us: i64,
    ) -> Result<(Vec<Later>, bool), Error> {
        let (route, due_us, event) = self.at;
        let rows: Vec<Later> = sqlx::query_as(PENDING)
            .bind(route)
            .bind(latest_us)
            .bind(due_us)
            .bind(event)
            .bind(PAGE)
            .fetch_all(&mut *conn)
            .await?;
        if rows.len() as i64 == PAGE
            && let Some(last) = rows.last()
        {
            self.at = (route, last.due_us, last.event);
            return Ok((rows, true));
        }
        let next: Option<i64> =
            sqlx::query_scalar("SELECT MIN(id) FROM termitary_subscriptions WHERE id > $1")
                .bind(route)
                .fetch_one(&mut *conn)
                .await?;
        self.at = (next.unwrap_or_default(), i64::MIN, 0);
        if next.is_some() {
            return Ok((rows, true));
        }
        let suspects: Vec<Later> = sqlx::query_as(SUSPECTS)
            .bind(latest_us)
            .bind(PAGE)
            .fetch_all(conn)
            .await?;
        Ok((rows.into_iter().chain(suspects).collect(), false))
    }
}

/// Each waits from now on for as long as was meant.
async fn bring(db: &Db, wrong: &[Wrong]) -> Result<u64, Error> {
    if wrong.is_empty() {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    let done = sqlx::query(
        "UPDATE termitary_deliveries AS d SET
            due_us = $2 + max(0, d.due_us - (j.value->>3)),
            settled_us = CASE WHEN d.settled_us IS NOT NULL THEN $2 END
         FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.due_us = j.value->>2
           AND d.state IN (0, -1)",
    )
    .bind(json!(wrong).to_string())
    .bind(db.clock().now_us())
    .execute(&mut *tx)
    .await?;
    tx.commit_and_wake().await?;
    Ok(done.rows_affected())
}

#[cfg(all(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::broker::{Broker, Leased, Outcome, Route, Settlement};
    use crate::clock::{Clock, days, from_micros, hours, micros};
    use crate::db::Options;
    use crate::inspect::LetterFilter;
    use crate::ledger::{self, Lease};
    use crate::prelude::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
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
                .fetch_one(self.right.db().reader())
                .await
                .unwrap();
            (due - self.right.db().clock().now_us()) / 1_000_000
        }

        async fn walk(&self) -> u64 {
            let mut walk = Forward::default();
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
}
