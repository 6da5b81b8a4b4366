//! The rows of running workers: each worker writes its own at its start and every few
//! seconds after it, with the time of its own clock.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::rows::Text;
use super::sql::{Statement, statement};
use crate::clock::{from_micros, micros, secs};
use crate::db::{Conn, Db};
use crate::delivery::WorkerId;
use crate::error::Error;

/// A worker whose row is older than this is not shown as live.
pub(crate) const LIVE: Duration = secs(20);

/// One worker process.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Fresh at every process start.
    pub id: String,
    /// The machine's host name.
    pub host: String,
    /// `sqlite` or `redis`: where its deliveries travel. Empty for a worker of
    /// an older version.
    pub mode: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// Attempts running when it last reported.
    pub running: u64,
    /// The most attempts it runs at once.
    pub concurrency: u64,
    /// Set if its clock is ahead of this one, by more than 20 seconds. If no worker runs, it
    /// may have ended long ago: only workers delete the rows of the dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_ahead_seconds: Option<u64>,
    #[serde(skip)]
    pub(crate) subscriptions: Vec<String>,
}

impl WorkerStatus {
    /// Returns whether the worker runs on this machine (or in this container).
    pub fn is_local(&self) -> bool {
        self.host == host()
    }

    /// Returns whether it runs this subscription.
    pub fn runs(&self, subscription: &str) -> bool {
        self.subscriptions.iter().any(|name| name == subscription)
    }
}

/// Its id and its machine.
impl fmt::Display for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.id, self.host)
    }
}

/// The row of a worker.
pub(crate) struct WorkerRow {
    pub(crate) id: WorkerId,
    pub(crate) started_us: i64,
    pub(crate) concurrency: usize,
    /// The names of its subscriptions, as a JSON array.
    pub(crate) subscriptions: String,
    /// The event names that the code of each subscription handles, as a JSON object.
    pub(crate) names: String,
    pub(crate) source: String,
    pub(crate) mode: &'static str,
}

impl WorkerRow {
    /// Writes the row of a worker that starts.
    pub(super) async fn insert(&self, conn: &mut Conn, now_us: i64) -> Result<(), Error> {
        self.write(conn, &self.subscriptions, 0, now_us).await
    }

    /// Writes the row with the subscriptions that the worker runs now, a JSON array.
    pub(crate) async fn write(
        &self,
        conn: &mut Conn,
        subscriptions: &str,
        running: u64,
        now_us: i64,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions, mode, source, names)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (id) DO UPDATE SET seen_us = excluded.seen_us, running = excluded.running,
                subscriptions = excluded.subscriptions",
        )
        .bind(&*self.id)
        .bind(host())
        .bind(self.started_us)
        .bind(now_us)
        .bind(running as i64)
        .bind(self.concurrency as i64)
        .bind(subscriptions)
        .bind(self.mode)
        .bind(&self.source)
        .bind(&self.names)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// The rows that were last written before `from_us` or after `to_us`, each by its id in
/// hexadecimal (it may hold bytes that are no text) and its time.
pub(crate) async fn written_outside(
    conn: &mut Conn,
    from_us: i64,
    to_us: i64,
) -> Result<Vec<(String, i64)>, Error> {
    const OUTSIDE: Statement = statement!(
        "SELECT ", [hex "id"], ", seen_us FROM termitary_workers WHERE seen_us < $1 OR seen_us > $2"
    );
    Ok(sqlx::query_as(OUTSIDE.on(conn))
        .bind(from_us)
        .bind(to_us)
        .fetch_all(conn)
        .await?)
}

/// Deletes the row of [`written_outside`], unless its worker has written it again.
pub(crate) async fn delete_unchanged(
    conn: &mut Conn,
    (id, seen_us): &(String, i64),
) -> Result<(), Error> {
    const DELETE: Statement = statement!(
        "DELETE FROM termitary_workers WHERE ", [hex "id"], " = $1 AND seen_us = $2"
    );
    sqlx::query(DELETE.on(conn))
        .bind(id)
        .bind(seen_us)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes the row of a worker that ends.
pub(crate) async fn delete(db: &Db, id: &str) -> Result<(), Error> {
    let mut tx = db.begin_own().await?;
    sqlx::query("DELETE FROM termitary_workers WHERE id = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// The workers whose row was written lately, by their clock or ours, the oldest first. A
/// worker whose clock is ahead counts as live until another worker sees that its row no
/// longer changes, and deletes it.
pub(crate) async fn live(db: &Db) -> Result<Vec<WorkerStatus>, Error> {
    type Row = (Text, Text, i64, i64, i64, i64, Text, Text);
    let now_us = db.clock().now_us();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, host, started_us, seen_us, running, concurrency, subscriptions, mode
         FROM termitary_workers WHERE seen_us >= $1 ORDER BY started_us, id",
    )
    .bind(now_us - micros(LIVE))
    .fetch_all(&mut *db.read().await?)
    .await?;
    let status =
        |(id, host, started_us, seen_us, running, concurrency, subscriptions, mode): Row| {
            let ahead_us = seen_us.saturating_sub(now_us);
            WorkerStatus {
                id: id.0,
                host: host.0,
                mode: mode.0,
                started_at: from_micros(started_us),
                running: running.max(0) as u64,
                concurrency: concurrency.max(0) as u64,
                clock_ahead_seconds: (ahead_us > micros(LIVE))
                    .then_some(ahead_us as u64 / 1_000_000),
                subscriptions: serde_json::from_str(&subscriptions.0).unwrap_or_default(),
            }
        };
    Ok(rows.into_iter().map(status).collect())
}

/// The machine's name, as far as the process can tell without asking anyone.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
