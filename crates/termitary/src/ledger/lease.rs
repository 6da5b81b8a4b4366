//! Leasing by row state, renewing, and taking over from the dead.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::json;
use sqlx::SqliteConnection;

use crate::broker::{CRASH_LIMIT, Claim, Leased, Origin, WorkerId};
use crate::db::Db;
use crate::error::Error;

use super::{EventRow, event_columns, state};

const CLAIM: &str = "
    UPDATE termitary_deliveries SET state = 1, worker = $1, lease_us = $2, fence = fence + 1
    WHERE (event, subscription) IN (
        SELECT event, subscription FROM termitary_deliveries
        WHERE state = 0 AND subscription = $3 AND due_us <= $4
        ORDER BY due_us LIMIT $5)
    RETURNING event, attempts, fence";

const EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM json_each($1) j JOIN termitary_events e ON e.seq = j.value"
);

/// Leases up to `max` due deliveries of one subscription until `until_us`.
pub(crate) async fn lease(
    conn: &mut SqliteConnection,
    route: i64,
    worker: &WorkerId,
    max: usize,
    now_us: i64,
    until_us: i64,
) -> Result<Vec<Leased>, Error> {
    let claimed: Vec<(i64, i64, i64)> = sqlx::query_as(CLAIM)
        .bind(&**worker)
        .bind(until_us)
        .bind(route)
        .bind(now_us)
        .bind(max as i64)
        .fetch_all(&mut *conn)
        .await?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    with_events(conn, route, worker, claimed).await
}

/// Claimed `(seq, attempts, fence)` of one subscription, with their events.
pub(super) async fn with_events(
    conn: &mut SqliteConnection,
    route: i64,
    worker: &WorkerId,
    claimed: Vec<(i64, i64, i64)>,
) -> Result<Vec<Leased>, Error> {
    let seqs: Vec<_> = claimed.iter().map(|(seq, ..)| *seq).collect();
    let mut events: HashMap<i64, EventRow> = sqlx::query_as::<_, EventRow>(EVENTS)
        .bind(json!(seqs).to_string())
        .fetch_all(&mut *conn)
        .await?
        .into_iter()
        .map(|row| (row.seq, row))
        .collect();
    let mut leased = Vec::with_capacity(claimed.len());
    for (seq, attempts, fence) in claimed {
        let row = events.remove(&seq).ok_or_else(|| {
            Error::internal(format!("delivery of event row {seq} without its event"))
        })?;
        let envelope = Arc::new(row.envelope()?);
        let claim = Claim {
            event: envelope.id,
            route,
            worker: Arc::clone(worker),
            fence,
            origin: Origin::Ledger { seq, entry: None },
        };
        leased.push(Leased {
            envelope,
            attempts: attempts as u32,
            claim,
        });
    }
    Ok(leased)
}

/// Extends the leases of these `(seq, route, fence)`; answers those that held.
pub(crate) async fn renew(
    conn: &mut SqliteConnection,
    claims: &[(i64, i64, i64)],
    until_us: i64,
) -> Result<Vec<(i64, i64, i64)>, Error> {
    Ok(sqlx::query_as(
        "UPDATE termitary_deliveries AS d SET lease_us = $2 FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1
         RETURNING event, subscription, fence",
    )
    .bind(json!(claims).to_string())
    .bind(until_us)
    .fetch_all(conn)
    .await?)
}

/// How long a delivery waits after its n-th crash: the first time not at all,
/// then long enough that it does not take every worker down in turn.
const SECOND_CRASH_WAIT_US: i64 = 10_000_000;

/// What becomes of a delivery whose lease is lost: a crash, not an error. The
/// second makes it a suspect, and who is one was leased alone: the third tells.
/// Binds $1 [`CRASH_LIMIT`], $2 dead, $3 suspect, $4 now, $5 the second wait.
macro_rules! crash_rule {
    () => {
        "crashes = crashes + 1,
         state = CASE WHEN crashes + 1 >= $1 THEN $2 WHEN crashes + 1 = $1 - 1 THEN $3 ELSE 0 END,
         reason = CASE WHEN crashes + 1 >= $1 THEN 'crashed' END,
         error = CASE WHEN crashes + 1 >= $1 THEN 'the worker process ended ' || (crashes + 1) || ' times while it held this, the last time alone' END,
         settled_us = CASE WHEN crashes + 1 >= $1 THEN $4 END,
         due_us = CASE WHEN crashes = 0 THEN $4 ELSE $4 + $5 END,
         worker = NULL, lease_us = NULL, entry = NULL"
    };
}

/// A lease as it stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, sqlx::FromRow)]
pub(crate) struct Lease {
    pub(crate) seq: i64,
    pub(crate) route: i64,
    pub(crate) fence: i64,
    /// When it ends, by the clock of whoever renewed it last.
    pub(crate) until_us: i64,
}

/// Which leases are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// All.
    Everyone,
    /// Of suspects only: the others are Redis's to look after.
    #[cfg(feature = "redis")]
    Suspects,
}

macro_rules! stale_select {
    ($whose:literal) => {
        concat!(
            "SELECT event AS seq, subscription AS route, fence, lease_us AS until_us
             FROM termitary_deliveries WHERE state = 1 AND lease_us < $1",
            $whose,
            " UNION ALL SELECT event, subscription, fence, lease_us
             FROM termitary_deliveries WHERE state = 1 AND lease_us > $2",
            $whose
        )
    };
}

/// The leases that end sooner or later than those of living workers do by
/// `usual` clocks.
pub(crate) async fn stale(
    db: &Db,
    whose: Whose,
    usual: &RangeInclusive<i64>,
) -> Result<Vec<Lease>, Error> {
    let select = match whose {
        Whose::Everyone => stale_select!(""),
        #[cfg(feature = "redis")]
        Whose::Suspects => stale_select!(" AND crashes >= 2 AND state <= 1"),
    };
    Ok(sqlx::query_as(select)
        .bind(usual.start())
        .bind(usual.end())
        .fetch_all(db.reader())
        .await?)
}

/// Takes back these leases where they stand unchanged. A lost lease is a
/// crash, not an error: attempts stay as they are, and the [`CRASH_LIMIT`]-th
/// quarantines the delivery. Answers how many were taken.
pub(crate) async fn crash(
    conn: &mut SqliteConnection,
    leases: &[Lease],
    now_us: i64,
) -> Result<u64, Error> {
    let rows: Vec<_> = leases
        .iter()
        .map(|lease| json!([lease.seq, lease.route, lease.fence, lease.until_us]))
        .collect();
    crash_rows(conn, &json!(rows).to_string(), now_us).await
}

/// The same for these `(seq, route, fence)`, whose workers Redis says are gone.
#[cfg(feature = "redis")]
pub(crate) async fn crash_held(
    conn: &mut SqliteConnection,
    rows: &[(i64, i64, i64)],
    now_us: i64,
) -> Result<u64, Error> {
    crash_rows(conn, &json!(rows).to_string(), now_us).await
}

/// JSON arrays of seq, route, fence and, where it matters, the lease's end.
async fn crash_rows(conn: &mut SqliteConnection, rows: &str, now_us: i64) -> Result<u64, Error> {
    let done = sqlx::query(concat!(
        "UPDATE termitary_deliveries AS d SET ",
        crash_rule!(),
        " FROM json_each($6) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2
           AND d.state = 1 AND d.lease_us = COALESCE(j.value->>3, d.lease_us)"
    ))
    .bind(i64::from(CRASH_LIMIT))
    .bind(state::DEAD)
    .bind(state::SUSPECT)
    .bind(now_us)
    .bind(SECOND_CRASH_WAIT_US)
    .bind(rows)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
