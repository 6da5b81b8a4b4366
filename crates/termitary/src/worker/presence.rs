//! The worker's row in the ledger: written at its start and again every few seconds.
//!
//! Each row holds the time of its worker's clock, which may be wrong, as may ours. A row
//! whose time differs from ours is therefore watched, and deleted once it no longer
//! changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::dropped::{self, Dropped};
use super::lane::Lane;
use crate::broker::Broker;
use crate::clock::{forward, micros, minutes, secs};
use crate::db::Tx;
use crate::error::Error;
use crate::ledger::workers::{self, LIVE, WorkerRow};
use crate::outage::Outage;
use crate::registry::Registry;

const EVERY: Duration = secs(5);
const FORGET: Duration = minutes(10);

/// Workers whose time is not ours, with that time, and since when it has stood.
#[derive(Default)]
struct Watch(HashMap<String, (i64, Instant)>);

impl Watch {
    /// Of these, the workers that are gone: their time stands still.
    fn gone(&mut self, rows: Vec<(String, i64)>, now: Instant) -> Vec<(String, i64)> {
        let stood = |row: &(String, i64)| {
            let seen = self.0.get(&row.0).filter(|(seen_us, _)| *seen_us == row.1);
            seen.map_or(now, |(_, since)| *since)
        };
        let watched: Vec<_> = rows.into_iter().map(|row| (stood(&row), row)).collect();
        self.0 = watched
            .iter()
            .map(|(since, (id, seen_us))| (id.clone(), (*seen_us, *since)))
            .collect();
        let gone = watched
            .into_iter()
            .filter(|(since, _)| now.saturating_duration_since(*since) >= LIVE);
        gone.map(|(_, row)| row).collect()
    }
}

/// Fails if a live worker uses another transport: neither would find the deliveries of the
/// other.
pub(super) async fn refuse_another_mode(broker: &Broker) -> Result<(), Error> {
    let Some(other) = broker.worker_of_another_mode().await? else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "worker {other} uses the transport `{}` on this database, and this one `{}`: give both the same, or stop that worker first (a worker that was killed counts as live for {} s)",
        other.mode,
        broker.mode(),
        LIVE.as_secs()
    )))
}

/// The row of a worker that starts now.
pub(super) fn row<S>(broker: &Broker, registry: &Registry<S>, concurrency: usize) -> WorkerRow {
    let db = broker.db();
    let subscriptions: Vec<_> = registry.subscriptions.iter().map(|it| &it.name).collect();
    let names = registry.subscriptions.iter();
    let names: BTreeMap<_, Vec<_>> = names.map(|it| (&it.name, it.names().collect())).collect();
    WorkerRow {
        id: db.clock().new_id().to_string().into(),
        started_us: db.clock().now_us(),
        concurrency,
        subscriptions: serde_json::json!(subscriptions).to_string(),
        names: serde_json::json!(names).to_string(),
        source: db.source().to_owned(),
        mode: broker.mode(),
    }
}

/// Signs in again every few seconds until housekeeping ends. Looks first whether what
/// it runs is still registered.
pub(super) async fn report<S: Send + Sync + 'static>(core: Arc<Core<S>>, lanes: Vec<Lane<S>>) {
    let mut dropped = Dropped::default();
    let outage = Outage::of("reporting this worker");
    let mut watch = Watch::default();
    loop {
        let reported = async {
            dropped.look(&core, &lanes).await?;
            let running = serde_json::json!(dropped::running(&lanes)).to_string();
            sign_in(&core, &running, &mut watch).await
        };
        match reported.await {
            Ok(()) => outage.over(),
            Err(error) => drop(outage.failed(&error)),
        }
        tokio::select! {
            () = core.end.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn sign_in<S>(core: &Core<S>, subscriptions: &str, watch: &mut Watch) -> Result<(), Error> {
    let db = core.broker.db();
    let now = db.clock().now_us();
    let mut tx = db.begin_own().await?;
    core.row
        .write(&mut tx, subscriptions, core.running(), now)
        .await?;
    forget(&mut tx, now, watch).await?;
    tx.commit().await
}

/// Deletes the rows of workers that are gone.
async fn forget(tx: &mut Tx, now_us: i64, watch: &mut Watch) -> Result<(), Error> {
    let (from_us, to_us) = (now_us - micros(FORGET), now_us.saturating_add(micros(LIVE)));
    let rows = workers::written_outside(tx, from_us, to_us).await?;
    for row in watch.gone(rows, forward()) {
        workers::delete_unchanged(tx, &row).await?;
    }
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::clock::{ahead, days};
    use crate::db::Db;
    use crate::testing::TestDb;

    async fn signed_in(db: &Db, id: &str, seen_us: i64) {
        let mut tx = db.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
             VALUES ($1, 'h', 0, $2, 0, 1, '[]') ON CONFLICT (id) DO UPDATE SET seen_us = excluded.seen_us",
        )
        .bind(id)
        .bind(seen_us)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    async fn look(db: &Db, watch: &mut Watch) {
        let mut tx = db.begin().await.unwrap();
        forget(&mut tx, db.clock().now_us(), watch).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn known(db: &Db) -> Vec<String> {
        sqlx::query_scalar("SELECT id FROM termitary_workers ORDER BY id")
            .fetch_all(&mut *db.read().await.unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_is_forgotten_whatever_its_clock_said_and_a_living_one_never() {
        let test = TestDb::open().await;
        let (db, mut watch) = (test.db(), Watch::default());
        let now_us = db.clock().now_us();
        let day = micros(days(1));
        for (id, off) in [
            ("gone.ahead", 9 * day),
            ("gone.behind", -9 * day),
            ("right", 0),
        ] {
            signed_in(db, id, now_us + off).await;
        }
        for second in (0..=25).step_by(5) {
            let seen_us = now_us + second * 1_000_000;
            signed_in(db, "lives.ahead", seen_us + 9 * day).await;
            signed_in(db, "lives.behind", seen_us - 9 * day).await;
            look(db, &mut watch).await;
            if second < 20 {
                assert_eq!(known(db).await.len(), 5, "after {second} s");
            }
            ahead::advance(secs(5));
        }
        assert_eq!(known(db).await, ["lives.ahead", "lives.behind", "right"]);
        let shown = workers::live(db).await.unwrap().into_iter();
        let shown: Vec<_> = shown.map(|w| (w.id, w.clock_ahead_seconds)).collect();
        let ahead = Some(25 + 9 * 86_400);
        assert_eq!(
            shown,
            [
                ("lives.ahead".to_owned(), ahead),
                ("right".to_owned(), None)
            ],
            "of the one behind it cannot be told that it lives"
        );
    }
}
