//! Forgetting what is finished, in small steps.

use std::time::Duration;

use crate::clock::{days, micros};
use crate::db::Db;
use crate::error::Error;
use crate::fault;

/// How long a finished event is kept.
pub(crate) const RETENTION: Duration = days(7);

/// Schedule ticks outlive events: they are what makes a tick unique.
const TICK_RETENTION: Duration = days(90);
const PAGE: i64 = 500;

/// Deletes one page of events whose every delivery is done and that are older
/// than [`RETENTION`]; answers whether there may be more.
pub(crate) async fn retain(db: &Db) -> Result<bool, Error> {
    let now = db.clock().now_us();
    let mut tx = db.begin().await?;
    let old: Vec<i64> = sqlx::query_scalar(
        "SELECT e.seq FROM termitary_events e WHERE e.time_us < $1
           AND NOT EXISTS (SELECT 1 FROM termitary_deliveries d WHERE d.event = e.seq AND d.state <> 2)
         ORDER BY e.time_us LIMIT $2 + 0",
    )
    .bind(now - micros(RETENTION))
    .bind(PAGE)
    .fetch_all(&mut *tx)
    .await?;
    let page = serde_json::json!(old).to_string();
    sqlx::query(
        "DELETE FROM termitary_deliveries WHERE event IN (SELECT value FROM json_each($1))",
    )
    .bind(&page)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM termitary_events WHERE seq IN (SELECT value FROM json_each($1))")
        .bind(&page)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM termitary_ticks WHERE tick_us < $1")
        .bind(now - micros(TICK_RETENTION))
        .execute(&mut *tx)
        .await?;
    if !old.is_empty() {
        fault::point!("retain.before_commit");
    }
    tx.commit().await?;
    if !old.is_empty() {
        fault::point!("retain.after_commit");
    }
    Ok(old.len() as i64 == PAGE)
}

/// Forgets a subscription and all its deliveries; answers how many of them
/// were unfinished.
pub(crate) async fn forget(tx: &mut crate::db::Tx, name: &str) -> Result<u64, Error> {
    let id: Option<i64> =
        sqlx::query_scalar("SELECT id FROM termitary_subscriptions WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut **tx)
            .await?;
    let id = id.ok_or_else(|| Error::not_found(format!("no subscription is named `{name}`")))?;
    let unfinished: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM termitary_deliveries WHERE subscription = $1 AND state <> 2",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM termitary_deliveries WHERE subscription = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    sqlx::query("DELETE FROM termitary_subscriptions WHERE id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(unfinished as u64)
}
