//! Leasing by row state, renewing, and taking over from the dead.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::db::{Conn, Db};
use crate::delivery::{Claim, Leased, Origin, WorkerId};
use crate::error::Error;
use crate::event::Envelope;

use super::rows::{StoredEvent, Unreadable, event_columns};
use super::sql::{Row, Statement, held, held_returning, json};
use super::state;

const EVENT: &str = concat!(
    "SELECT e.seq, ",
    event_columns!(),
    " FROM termitary_events e WHERE e.seq = $1"
);

/// A delivery that was claimed under `fence`, as a worker gets it.
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

/// Extends these leases; returns those that were still valid.
pub(crate) async fn renew(
    conn: &mut Conn,
    claims: &[Row],
    until_us: i64,
) -> Result<Vec<Row>, Error> {
    const RENEW: Statement = held_returning!(["lease_us = $2"]);
    Ok(sqlx::query_as(RENEW.on(conn))
        .bind(json(&claims))
        .bind(until_us)
        .fetch_all(conn)
        .await?)
}

/// A delivery whose worker died this often is quarantined: dead, `crashed`. The last two
/// of these times it was a suspect and ran alone: if processes are killed often, a single
/// death while alone would accuse a bystander.
const CRASH_LIMIT: i64 = 4;

/// The wait of a delivery from its second crash on, so that it does not take every worker
/// down in turn. After the first it does not wait.
const SUSPECT_WAIT_US: i64 = 10_000_000;

/// A lost lease is a crash, not an error. The second crash makes the delivery a suspect,
/// which is leased alone from then on; two more quarantine it. A row may name the end of
/// its lease: it then changes only if nobody renewed it. Binds $2 [`CRASH_LIMIT`], $3
/// dead, $4 suspect, $5 now, $6 a suspect's wait.
const CRASH: Statement = held!(
    [
        "crashes = CASE WHEN crashes < 1000000 THEN crashes ELSE 1000000 END + 1,
         state = CASE WHEN crashes + 1 >= $2 THEN $3 WHEN crashes + 1 >= 2 THEN $4 ELSE 0 END,
         reason = CASE WHEN crashes + 1 >= $2 THEN 'crashed' END,
         error = CASE WHEN crashes + 1 >= $2 THEN 'the worker process ended ' || (crashes + 1) || ' times while it held this, the last two times alone' END,
         settled_us = $5,
         due_us = CASE WHEN crashes = 0 THEN $5 ELSE $5 + $6 END,
         ",
        [free]
    ],
    " AND COALESCE(d.lease_us, 0) = COALESCE(", [int 3], ", d.lease_us, 0)"
);

/// A lease as it stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, sqlx::FromRow)]
pub(crate) struct Lease {
    pub(crate) seq: i64,
    pub(crate) route: i64,
    pub(crate) fence: i64,
    /// When it ends, by the clock of whoever renewed it last; 0 if the row has no end.
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
            $whose,
            // Of a row that no program of ours wrote.
            " UNION ALL SELECT event, subscription, fence, 0
             FROM termitary_deliveries WHERE state = 1 AND lease_us IS NULL",
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

/// Takes back these leases if they are unchanged; returns how many were.
pub(crate) async fn crash(conn: &mut Conn, leases: &[Lease], now_us: i64) -> Result<u64, Error> {
    let row = |lease: &Lease| (lease.seq, lease.route, lease.fence, lease.until_us);
    let rows: Vec<_> = leases.iter().map(row).collect();
    crash_rows(conn, json(&rows), now_us).await
}

/// Takes back these leases, whose workers are gone according to Redis.
pub(crate) async fn crash_held(conn: &mut Conn, rows: &[Row], now_us: i64) -> Result<u64, Error> {
    crash_rows(conn, json(&rows), now_us).await
}

async fn crash_rows(conn: &mut Conn, rows: String, now_us: i64) -> Result<u64, Error> {
    let done = sqlx::query(CRASH.on(conn))
        .bind(rows)
        .bind(CRASH_LIMIT)
        .bind(state::DEAD)
        .bind(state::SUSPECT)
        .bind(now_us)
        .bind(SUSPECT_WAIT_US)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}
