//! Who is there: every worker signs in, and again every few seconds.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::clock::{from_micros, micros, minutes, secs};
use crate::db::Db;
use crate::error::Error;
use crate::inspect::WorkerStatus;
use crate::ledger::stored::Text;

const EVERY: Duration = secs(5);
/// A worker not heard of for this long is not shown as live.
pub(crate) const LIVE: Duration = secs(20);
const FORGET: Duration = minutes(10);

/// Signs in, and again every few seconds until housekeeping ends.
pub(super) async fn report<S: Send + Sync + 'static>(
    core: Arc<Core<S>>,
    subscriptions: Vec<String>,
) {
    let started_us = core.broker.db().clock().now_us();
    let subscriptions = serde_json::json!(subscriptions).to_string();
    let mut failing = false;
    loop {
        match sign_in(&core, started_us, &subscriptions).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(error = ?error, "cannot report this worker; trying again");
                }
                failing = true;
            }
        }
        tokio::select! {
            () = core.end.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn sign_in<S>(core: &Core<S>, started_us: i64, subscriptions: &str) -> Result<(), Error> {
    let db = core.broker.db();
    let now = db.clock().now_us();
    let mut tx = db.begin().await?;
    sqlx::query(
        "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions, mode)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (id) DO UPDATE SET seen_us = excluded.seen_us, running = excluded.running",
    )
    .bind(&*core.id)
    .bind(host())
    .bind(started_us)
    .bind(now)
    .bind(core.running() as i64)
    .bind(core.concurrency as i64)
    .bind(subscriptions)
    .bind(core.broker.mode())
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM termitary_workers WHERE seen_us < $1")
        .bind(now - micros(FORGET))
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

pub(super) async fn sign_off(db: &Db, id: &str) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    sqlx::query("DELETE FROM termitary_workers WHERE id = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// The workers heard of lately, the oldest first.
pub(crate) async fn live(db: &Db) -> Result<Vec<WorkerStatus>, Error> {
    let rows: Vec<(Text, Text, i64, i64, i64, Text, Text)> = sqlx::query_as(
        "SELECT id, host, started_us, running, concurrency, subscriptions, mode FROM termitary_workers
         WHERE seen_us >= $1 ORDER BY started_us, id",
    )
    .bind(db.clock().now_us() - micros(LIVE))
    .fetch_all(db.reader())
    .await?;
    Ok(rows
        .into_iter()
        .map(
            |(id, host, started_us, running, concurrency, subscriptions, mode)| WorkerStatus {
                id: id.0,
                host: host.0,
                mode: mode.0,
                started_at: from_micros(started_us),
                running: running.max(0) as u64,
                concurrency: concurrency.max(0) as u64,
                subscriptions: serde_json::from_str(&subscriptions.0).unwrap_or_default(),
            },
        )
        .collect())
}

/// The machine's name, as far as the process can tell without asking anyone.
pub(crate) fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
