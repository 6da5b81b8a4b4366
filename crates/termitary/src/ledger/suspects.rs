//! Suspects: deliveries whose process died twice while it held them. Any of
//! what such a process held may have killed it, so each of them runs alone
//! before it is blamed, and again if the process dies once more.
//!
//! A worker first reserves what is due, then empties itself, then leases one
//! after the other. A process that dies while it empties itself has leased no
//! suspect yet, and accuses none.

use serde_json::json;

use super::lease::{event, leased};
use super::rows::{counters, park};
use super::single_writer::alone;
use super::sql::{Statement, statement};
use crate::db::{Conn, Db};
use crate::delivery::{Leased, WorkerId};
use crate::error::Error;
use crate::event::Envelope;

/// The most suspects of one reservation.
const PAGE: i64 = 100;

/// Returns whether a suspect of these subscriptions is due.
pub(crate) async fn waiting(db: &Db, routes: &[i64]) -> Result<bool, Error> {
    const WAITING: Statement = statement!(
        "SELECT EXISTS (SELECT 1 FROM termitary_deliveries
         WHERE crashes >= 2 AND state <= 1 AND state = -1 AND due_us <= $1
           AND subscription IN ", [ints "$2"], ")"
    );
    let mut conn = db.read().await?;
    Ok(sqlx::query_scalar(WAITING.on(&conn))
        .bind(db.clock().now_us())
        .bind(json!(routes).to_string())
        .fetch_one(&mut *conn)
        .await?)
}

/// Reserves due suspects for `worker` until `window_us` from now; returns how many. None
/// while another worker has a reservation or runs a suspect: the others go on with their
/// work meanwhile.
pub(crate) async fn reserve(
    db: &Db,
    worker: &WorkerId,
    routes: &[i64],
    window_us: i64,
) -> Result<u64, Error> {
    // A reservation that seems to last longer than any was made by a clock
    // that runs ahead: it counts for nothing.
    const RESERVE: Statement = statement!(
        "UPDATE termitary_deliveries SET worker = $1, lease_us = $2 + $3
         WHERE (event, subscription) IN (
             SELECT event, subscription FROM termitary_deliveries
             WHERE crashes >= 2 AND state <= 1 AND state = -1 AND due_us <= $2
               AND subscription IN ", [ints "$4"], "
             ORDER BY due_us LIMIT $5 + 0)
           AND NOT EXISTS (
             SELECT 1 FROM termitary_deliveries o
             WHERE o.crashes >= 2 AND o.state <= 1 AND o.worker <> $1
               AND o.lease_us > $2 AND (o.state = 1 OR o.lease_us <= $2 + 2 * $3))"
    );
    let mut tx = alone(db).await?;
    let rows = sqlx::query(RESERVE.on(&tx))
        .bind(&**worker)
        .bind(db.clock().now_us())
        .bind(window_us)
        .bind(json!(routes).to_string())
        .bind(PAGE)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(rows.rows_affected())
}

/// Leases one of the suspects that `worker` reserved, for `lease_us` from now;
/// the reservation of the others lasts as long.
pub(crate) async fn lease(
    db: &Db,
    worker: &WorkerId,
    lease_us: i64,
) -> Result<Option<Leased>, Error> {
    let mut tx = alone(db).await?;
    let leased = lease_one(&mut tx, worker, db.clock().now_us(), lease_us).await?;
    tx.commit().await?;
    Ok(leased)
}

async fn lease_one(
    conn: &mut Conn,
    worker: &WorkerId,
    now_us: i64,
    lease_us: i64,
) -> Result<Option<Leased>, Error> {
    let until_us = now_us.saturating_add(lease_us);
    let Some((seq, route, attempts, fence, envelope)) =
        first_readable(conn, worker, now_us).await?
    else {
        return Ok(None);
    };
    let fence = fence + 1;
    sqlx::query(
        "UPDATE termitary_deliveries SET state = 1, fence = $3, lease_us = $4
         WHERE event = $1 AND subscription = $2",
    )
    .bind(seq)
    .bind(route)
    .bind(fence)
    .bind(until_us)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE termitary_deliveries SET lease_us = $2
         WHERE crashes >= 2 AND state <= 1 AND state = -1 AND worker = $1",
    )
    .bind(&**worker)
    .bind(until_us)
    .execute(&mut *conn)
    .await?;
    Ok(Some(leased(route, worker, attempts, fence, seq, envelope)))
}

/// The next suspect that `worker` reserved: row, route, attempts and fence.
pub(super) const NEXT: &str = "
    SELECT event, subscription, attempts, fence FROM termitary_deliveries
    WHERE crashes >= 2 AND state <= 1 AND state = -1 AND worker = $1
    ORDER BY due_us LIMIT 1";

/// The first of the reserved suspects that can be read, with its event; those before
/// it are parked.
async fn first_readable(
    conn: &mut Conn,
    worker: &WorkerId,
    now_us: i64,
) -> Result<Option<(i64, i64, u32, i64, Envelope)>, Error> {
    loop {
        let next: Option<(i64, i64, i64, i64)> = sqlx::query_as(NEXT)
            .bind(&**worker)
            .fetch_optional(&mut *conn)
            .await?;
        let Some((seq, route, attempts, fence)) = next else {
            return Ok(None);
        };
        let event = event(conn, seq).await?;
        let counters = counters(seq, attempts, fence);
        match counters.and_then(|counters| Ok((counters, event?))) {
            Ok(((attempts, fence), event)) => {
                return Ok(Some((seq, route, attempts, fence, event)));
            }
            Err(unreadable) => park(conn, &[(unreadable, route)], now_us).await?,
        }
    }
}

/// Releases the suspects that are reserved and were not leased.
pub(crate) async fn release(db: &Db, worker: &WorkerId) -> Result<(), Error> {
    let mut tx = alone(db).await?;
    sqlx::query(
        "UPDATE termitary_deliveries SET worker = NULL, lease_us = NULL
         WHERE crashes >= 2 AND state <= 1 AND state = -1 AND worker = $1",
    )
    .bind(&**worker)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
