//! Retention: finished events are deleted, in small steps.

use std::time::Duration;

use crate::clock::{days, micros};
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;

use super::single_writer::{Table, newest};
use super::sql::{Statement, statement};
use super::{broadcasts, clocks, ticks};

/// The time for which a finished event is kept.
pub(crate) const RETENTION: Duration = days(7);

/// Schedule ticks outlive events: they are what makes a tick unique.
const TICK_RETENTION: Duration = days(90);
const PAGE: i64 = 500;
/// A time so far ahead is a wrong clock's, and says nothing of what was recorded
/// after it.
const AHEAD: Duration = days(1);

/// A walk through the events in the order in which they were recorded, which is
/// nearly that of their times.
#[derive(Default)]
pub(crate) struct Walk {
    /// The `seq` of the last one looked at.
    at: i64,
    /// The newest broadcast when the last walk began: old by now. Processes that live
    /// long delete theirs themselves.
    broadcasts: i64,
}

/// An event that the walk comes by.
#[derive(sqlx::FromRow)]
struct Passed {
    seq: i64,
    time_us: i64,
    finished: bool,
}

const PASS: Statement = statement!(
    "SELECT e.seq, e.time_us,
        NOT EXISTS (SELECT 1 FROM termitary_deliveries d
                    WHERE d.event = e.seq AND d.state <> 2",
    [of_a_subscription],
    ") AS finished
     FROM (SELECT seq, time_us FROM termitary_events WHERE seq > $1 ORDER BY seq LIMIT $2 + 0) e"
);

impl Walk {
    /// Reads one page of events, and deletes those that are older than [`RETENTION`] and
    /// whose every delivery is done; returns whether there may be more. A page with
    /// nothing old and something of today ends the walk: what is behind was recorded
    /// later. The next one begins with the oldest again.
    pub(crate) async fn step(&mut self, db: &Db) -> Result<bool, Error> {
        // By every living worker's clock: what one that is ahead deletes is gone.
        let now = clocks::earliest(db).await?;
        let old = now.saturating_sub(micros(RETENTION));
        let wrong = now.saturating_add(micros(AHEAD));
        let mut tx = db.begin_own().await?;
        let page: Vec<Passed> = sqlx::query_as(PASS.on(&tx))
            .bind(self.at)
            .bind(PAGE)
            .fetch_all(&mut *tx)
            .await?;
        let over = page.iter().filter(|it| it.time_us < old && it.finished);
        let over: Vec<_> = over.map(|it| it.seq).collect();
        delete(&mut tx, &over).await?;
        let more_broadcasts = self.at == 0 && self.prune_broadcasts(db, &mut tx).await?;
        ticks::delete_before(&mut tx, now.saturating_sub(micros(TICK_RETENTION))).await?;
        if !over.is_empty() {
            fault::point!("retain.before_commit");
        }
        tx.commit().await?;
        if !over.is_empty() {
            fault::point!("retain.after_commit");
        }
        let goes_on = page.iter().any(|it| it.time_us < old)
            || page.iter().all(|it| it.time_us > wrong) && !page.is_empty();
        self.at = page
            .last()
            .filter(|_| goes_on && !more_broadcasts)
            .map_or(0, |it| it.seq);
        Ok(goes_on || more_broadcasts)
    }

    /// At the beginning of a walk, and so long after the last one; returns whether
    /// there are more.
    async fn prune_broadcasts(&mut self, db: &Db, tx: &mut Tx) -> Result<bool, Error> {
        let page = PAGE as u64;
        let more = broadcasts::prune(tx, self.broadcasts, page).await? == page;
        if !more {
            self.broadcasts = newest(db, Table::Broadcasts).await?;
        }
        Ok(more)
    }
}

const DELETE: [Statement; 2] = [
    statement!("DELETE FROM termitary_deliveries WHERE event IN ", [ints "$1"]),
    statement!("DELETE FROM termitary_events WHERE seq IN ", [ints "$1"]),
];

async fn delete(tx: &mut Tx, events: &[i64]) -> Result<(), Error> {
    let page = serde_json::json!(events).to_string();
    for statement in DELETE {
        sqlx::query(statement.on(tx))
            .bind(&page)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Deletes a subscription and all its deliveries; returns how many of them were
/// unfinished.
pub(crate) async fn forget(tx: &mut Tx, name: &str, now_us: i64) -> Result<u64, Error> {
    let id: Option<i64> =
        sqlx::query_scalar("SELECT id FROM termitary_subscriptions WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *tx)
            .await?;
    let id = id.ok_or_else(|| Error::not_found(format!("no subscription is named `{name}`")))?;
    let unfinished: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM termitary_deliveries WHERE subscription = $1 AND state <> 2",
    )
    .bind(id)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM termitary_deliveries WHERE subscription = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO termitary_dropped (name, event, subscription, time_us)
         SELECT s.name, s.event, s.id, $2 FROM termitary_subscriptions s WHERE s.id = $1
         UNION SELECT s.name, r.event, s.id, $2 FROM termitary_routes r
               JOIN termitary_subscriptions s ON s.id = r.subscription WHERE s.id = $1
         ON CONFLICT (name, event) DO UPDATE SET subscription = excluded.subscription, time_us = excluded.time_us",
    )
    .bind(id)
    .bind(now_us)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM termitary_subscriptions WHERE id = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    Ok(unfinished as u64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    async fn database(folder: &tempfile::TempDir) -> Db {
        let file = folder.path().join("kept.db");
        Db::open(&format!("sqlite://{}", file.display()))
            .await
            .unwrap()
    }

    /// Records so many events of an age in microseconds, with a delivery each.
    async fn record(db: &Db, events: i64, age: i64, state: i64) {
        let time_us = db.clock().now_us() - age;
        let mut tx = db.begin().await.unwrap();
        let sql = format!(
            "INSERT INTO termitary_subscriptions (id, name, event, version, since_us, seen_us)
             VALUES (1, 'a', 'a', 1, 0, 0) ON CONFLICT DO NOTHING;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
             INSERT INTO termitary_events (id, name, version, source, time_us, data)
             SELECT randomblob(16), 'a', 1, 'test', {time_us}, '{{}}' FROM n;
             INSERT INTO termitary_deliveries (event, subscription, state, due_us)
             SELECT seq, 1, {state}, 0 FROM termitary_events
             WHERE seq NOT IN (SELECT event FROM termitary_deliveries);"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    async fn kept(db: &Db) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events")
            .fetch_one(&mut *db.read().await.unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_walk_goes_past_what_is_unfinished_and_ends_at_what_is_not_old() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(&folder).await;
        let old = micros(RETENTION) + 1;
        record(&db, 2 * PAGE, old, 0).await;
        record(&db, PAGE, old, 2).await;
        record(&db, 2 * PAGE, old / 2, 2).await;
        let mut walk = Walk::default();
        let mut steps = 0;
        while walk.step(&db).await.unwrap() {
            steps += 1;
        }
        assert_eq!((steps, kept(&db).await), (3, 4 * PAGE));
        // Events that were finished meanwhile go with the next walk.
        let mut tx = db.begin().await.unwrap();
        sqlx::query("UPDATE termitary_deliveries SET state = 2 WHERE event <= 10")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert!(walk.step(&db).await.unwrap());
        assert_eq!(kept(&db).await, 4 * PAGE - 10);
    }

    #[tokio::test]
    async fn what_is_old_for_a_clock_that_is_ahead_alone_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(&folder).await;
        record(&db, 1, micros(RETENTION) + 1, 2).await;
        let behind = db.clock().now_us() - micros(days(3));
        let mut tx = db.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
             VALUES ('other', 'h', 0, $1, 0, 1, '[]')",
        )
        .bind(behind)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        Walk::default().step(&db).await.unwrap();
        assert_eq!(kept(&db).await, 1);
        let mut tx = db.begin().await.unwrap();
        sqlx::query("DELETE FROM termitary_workers")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        Walk::default().step(&db).await.unwrap();
        assert_eq!(kept(&db).await, 0);
    }

    #[tokio::test]
    async fn what_a_wrong_clock_dated_ahead_keeps_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(&folder).await;
        let old = micros(RETENTION) + 1;
        record(&db, PAGE + 100, -micros(days(400)), 2).await;
        record(&db, PAGE, old, 2).await;
        record(&db, PAGE, 0, 2).await;
        let mut walk = Walk::default();
        while walk.step(&db).await.unwrap() {}
        assert_eq!(kept(&db).await, 2 * PAGE + 100);
    }

    #[tokio::test]
    async fn broadcasts_of_processes_that_are_gone_are_deleted_by_the_next_walk() {
        let folder = tempfile::tempdir().unwrap();
        let db = database(&folder).await;
        let send = async |messages: i64| {
            let mut tx = db.begin().await.unwrap();
            for _ in 0..messages {
                broadcasts::send(&mut tx, "a", "{}", 0).await.unwrap();
            }
            tx.commit().await.unwrap();
        };
        let kept = async || -> i64 {
            sqlx::query_scalar("SELECT COUNT(*) FROM termitary_broadcasts")
                .fetch_one(&mut *db.read().await.unwrap())
                .await
                .unwrap()
        };
        let mut walk = Walk::default();
        send(PAGE + 10).await;
        while walk.step(&db).await.unwrap() {}
        assert_eq!(kept().await, PAGE + 10, "they may be young");
        send(1).await;
        assert!(walk.step(&db).await.unwrap(), "a page, and there is more");
        assert!(!walk.step(&db).await.unwrap());
        assert_eq!(kept().await, 1);
    }
}
