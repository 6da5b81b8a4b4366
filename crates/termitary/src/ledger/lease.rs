//! Leasing by row state, renewing, and taking over from the dead.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::json;

use crate::broker::CRASH_LIMIT;
use crate::db::{Conn, Db};
use crate::delivery::{Claim, Leased, Origin, WorkerId};
use crate::error::Error;
use crate::event::Envelope;

use super::state;
use super::stored::{StoredEvent, Unreadable, event_columns};

const EVENT: &str = concat!(
    "SELECT e.seq, ",
    event_columns!(),
    " FROM termitary_events e WHERE e.seq = $1"
);

/// What was claimed under `fence`, as a worker gets it.
pub(super) fn leased(
    route: i64,
    worker: &WorkerId,
    attempts: u32,
    fence: i64,
    seq: i64,
    envelope: Envelope,
) -> Leased {
    let envelope = Arc::new(envelope);
    let claim = Claim {
        event: envelope.id,
        route,
        worker: Arc::clone(worker),
        fence,
        origin: Origin::Ledger { seq, entry: None },
    };
    Leased {
        envelope,
        attempts,
        claim,
    }
}

/// The event of a row.
pub(super) async fn event(
    conn: &mut Conn,
    seq: i64,
) -> Result<Result<Envelope, Unreadable>, Error> {
    let event: Option<StoredEvent> = sqlx::query_as(EVENT).bind(seq).fetch_optional(conn).await?;
    Ok(event.unwrap_or_else(|| StoredEvent::missing(seq)).read())
}

/// Extends the leases of these `(seq, route, fence)`; answers those that held.
pub(crate) async fn renew(
    conn: &mut Conn,
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

/// How long a delivery waits after a crash: the first time not at all, from the
/// second on long enough that it does not take every worker down in turn.
const SUSPECT_WAIT_US: i64 = 10_000_000;

/// What becomes of a delivery whose lease is lost: a crash, not an error. The
/// second makes it a suspect, which is leased alone from then on: two more, and it
/// is guilty. Binds $1 [`CRASH_LIMIT`], $2 dead, $3 suspect, $4 now, $5 a suspect's
/// wait.
macro_rules! crash_rule {
    () => {
        "crashes = min(crashes, 1000000) + 1,
         state = CASE WHEN crashes + 1 >= $1 THEN $2 WHEN crashes + 1 >= 2 THEN $3 ELSE 0 END,
         reason = CASE WHEN crashes + 1 >= $1 THEN 'crashed' END,
         error = CASE WHEN crashes + 1 >= $1 THEN 'the worker process ended ' || (crashes + 1) || ' times while it held this, the last two times alone' END,
         settled_us = $4,
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
        Whose::Suspects => stale_select!(" AND crashes >= 2 AND state <= 1"),
    };
    Ok(sqlx::query_as(select)
        .bind(usual.start())
        .bind(usual.end())
        .fetch_all(&mut *db.read().await?)
        .await?)
}

/// Takes back these leases where they stand unchanged. A lost lease is a
/// crash, not an error: attempts stay as they are, and the [`CRASH_LIMIT`]-th
/// quarantines the delivery. Answers how many were taken.
pub(crate) async fn crash(conn: &mut Conn, leases: &[Lease], now_us: i64) -> Result<u64, Error> {
    let rows: Vec<_> = leases
        .iter()
        .map(|lease| json!([lease.seq, lease.route, lease.fence, lease.until_us]))
        .collect();
    crash_rows(conn, &json!(rows).to_string(), now_us).await
}

/// The same for these `(seq, route, fence)`, whose workers Redis says are gone.
pub(crate) async fn crash_held(
    conn: &mut Conn,
    rows: &[(i64, i64, i64)],
    now_us: i64,
) -> Result<u64, Error> {
    crash_rows(conn, &json!(rows).to_string(), now_us).await
}

/// JSON arrays of seq, route, fence and, where it matters, the lease's end.
async fn crash_rows(conn: &mut Conn, rows: &str, now_us: i64) -> Result<u64, Error> {
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
    .bind(SUSPECT_WAIT_US)
    .bind(rows)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
