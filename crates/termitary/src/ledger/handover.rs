//! Deliveries that were handed to Redis.
//!
//! The ledger leases them, to `relay`, for as long as it trusts Redis with them
//! (`lease_us`); `entry` names the stream entry that carries one. The fence rises with
//! every hand-over, so that an entry of an earlier one is recognised and dropped.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::gathered;
use super::rows::{Bytes, Text};
use super::sql::{Row, Statement, change, held, held_returning, json, piece, statement};
use crate::db::{Conn, Db};
use crate::engine::Engine;
use crate::error::Error;

const ENTRY: Statement = held!(["entry = ", [text 3]]);
const TRUST: Statement = held!(["lease_us = ", [int 3]]);
const UNDO: Statement = held!(["state = 0, fence = d.fence - 1, worker = NULL, lease_us = NULL"]);
const OWE: Statement = held!(["state = 0, worker = NULL, lease_us = NULL, entry = NULL"]);
const RENEW: Statement = held_returning!(["worker = ", [text 3], ", lease_us = ", [int 4]]);
const REFENCE: Statement = held_returning!(
    ["fence = d.fence + 1, lease_us = $2, worker = ", [text 3], ", entry = ", [text 4]],
    " AND d.fence < 9223372036854775807"
);

/// Records the stream entry that carries each delivery.
pub(crate) async fn record_entries(
    conn: &mut Conn,
    entries: &[(Row, String)],
) -> Result<(), Error> {
    let rows = entries
        .iter()
        .map(|((seq, route, fence), entry)| (seq, route, fence, entry));
    change(conn, ENTRY, &rows.collect::<Vec<_>>())
        .await
        .map(drop)
}

const NOT_FANNED: Statement =
    statement!("UPDATE termitary_events SET fanned = 0 WHERE seq IN ", [ints "$1"]);

/// Undoes a hand-over that certainly did not happen.
pub(crate) async fn undo(conn: &mut Conn, fresh: &[i64], rows: &[Row]) -> Result<(), Error> {
    change(conn, UNDO, &rows).await?;
    sqlx::query(NOT_FANNED.on(conn))
        .bind(json(&fresh))
        .execute(conn)
        .await?;
    Ok(())
}

/// Trusts Redis with each delivery until its time.
pub(crate) async fn trust(conn: &mut Conn, rows: &[(Row, i64)]) -> Result<(), Error> {
    let rows = rows
        .iter()
        .map(|((seq, route, fence), until_us)| (seq, route, fence, until_us));
    change(conn, TRUST, &rows.collect::<Vec<_>>())
        .await
        .map(drop)
}

/// Makes deliveries pending that Redis does not have (any more), so that they are handed
/// over again. It does not count as a crash. Returns how many.
pub(crate) async fn owe(conn: &mut Conn, rows: &[Row]) -> Result<u64, Error> {
    change(conn, OWE, &rows).await
}

/// Extends the leases of what a worker runs: `seq`, route, fence, worker and the lease's
/// end. Returns those that are still the worker's.
pub(crate) async fn renew(
    conn: &mut Conn,
    rows: &[(i64, i64, i64, &str, i64)],
) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as(RENEW.on(conn))
        .bind(json(&rows))
        .fetch_all(conn)
        .await?)
}

/// A delivery that is given out again with the entry that carries it.
pub(crate) struct Again<'a> {
    pub(crate) row: Row,
    pub(crate) worker: &'a str,
    pub(crate) entry: String,
}

/// Gives each delivery that is unchanged the next fence, if there is one; returns the new
/// rows.
pub(crate) async fn refence(
    conn: &mut Conn,
    again: &[Again<'_>],
    until_us: i64,
) -> Result<Vec<Row>, Error> {
    let rows = again.iter().map(
        |Again {
             row: (seq, route, fence),
             worker,
             entry,
         }| { (seq, route, fence, worker, entry) },
    );
    Ok(sqlx::query_as(REFENCE.on(conn))
        .bind(json(&rows.collect::<Vec<_>>()))
        .bind(until_us)
        .fetch_all(conn)
        .await?)
}

/// A delivery that Redis is trusted with.
#[derive(sqlx::FromRow)]
pub(crate) struct Trusted {
    pub(crate) seq: i64,
    pub(crate) id: Bytes,
    pub(crate) route: i64,
    pub(crate) fence: i64,
    pub(crate) due_us: i64,
    pub(crate) entry: Option<Text>,
}

macro_rules! trusted {
    ($rest:literal) => {
        concat!(
            "SELECT d.event AS seq, e.id, d.subscription AS route, d.fence, d.due_us, d.entry
             FROM termitary_deliveries d JOIN termitary_events e ON e.seq = d.event
             WHERE d.state = 1 AND d.crashes < 2 AND ",
            $rest
        )
    };
}

/// A page of deliveries whose trust ended before `now_us`, or has no end, as in a row that no
/// program of ours wrote. Suspects are never handed to Redis.
pub(crate) async fn overdue(
    conn: &mut Conn,
    now_us: i64,
    page: usize,
) -> Result<Vec<Trusted>, Error> {
    let mut overdue: Vec<Trusted> =
        sqlx::query_as(trusted!("d.lease_us < $1 ORDER BY d.lease_us LIMIT $2 + 0"))
            .bind(now_us)
            .bind(page as i64)
            .fetch_all(&mut *conn)
            .await?;
    let left = page - overdue.len();
    if left > 0 {
        let endless: Vec<Trusted> = sqlx::query_as(trusted!("d.lease_us IS NULL LIMIT $1 + 0"))
            .bind(left as i64)
            .fetch_all(conn)
            .await?;
        overdue.extend(endless);
    }
    Ok(overdue)
}

/// Trusts Redis only with what a live worker renewed: it may have lost the rest. A
/// delivery on its way there, without an entry, is trusted until `soon_us` at most.
pub(crate) async fn distrust(conn: &mut Conn, now_us: i64, soon_us: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE termitary_deliveries SET lease_us = CASE WHEN entry IS NOT NULL THEN 0 WHEN lease_us < $2 THEN lease_us ELSE $2 END
         WHERE state = 1 AND crashes < 2 AND (worker = 'relay' OR lease_us < $1)",
    )
    .bind(now_us)
    .bind(soon_us)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Counts the deliveries of each subscription that are handed to Redis.
pub(crate) async fn counts(conn: &mut Conn) -> Result<HashMap<i64, u64>, Error> {
    const COUNTS: Statement = statement!(
        "SELECT subscription, COUNT(*) FROM termitary_deliveries", [by "termitary_deliveries_leased"], "
         WHERE state = 1 AND crashes < 2 GROUP BY subscription"
    );
    let rows: Vec<(i64, i64)> = sqlx::query_as(COUNTS.on(conn)).fetch_all(conn).await?;
    let rows = rows.into_iter().map(|(route, n)| (route, n as u64));
    Ok(rows.collect())
}

/// Makes events pending again that the process that committed them leased until
/// `until_us`, and that certainly did not arrive on their streams.
pub(crate) async fn give_back(db: &Db, seqs: Vec<i64>, until_us: i64) -> Result<(), Error> {
    match db.engine() {
        Engine::Sqlite(_) => {
            db.write(move |conn| give_back_on_sqlite(conn, &seqs, until_us))
                .await
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres(_) => {
            const GIVE_BACK: &str = concat!(
                "WITH d AS (UPDATE termitary_deliveries AS d SET state = 0, fence = 0, worker = NULL, lease_us = NULL
                    WHERE d.event = ANY ($1::bigint[]) ",
                piece!(postgres [leased_under "1"]),
                " AND d.worker = 'relay' AND d.entry IS NULL AND d.lease_us = $2 RETURNING d.event)
                 UPDATE termitary_events SET fanned = 0 WHERE seq IN (SELECT event FROM d)"
            );
            let mut conn = db.renewer().await?;
            sqlx::query(GIVE_BACK)
                .bind(seqs)
                .bind(until_us)
                .execute(conn.postgres()?)
                .await?;
            Ok(())
        }
    }
}

fn give_back_on_sqlite(conn: &Connection, seqs: &[i64], until_us: i64) -> Result<(), Error> {
    // Only that lease: a later one may have the same fence.
    let mut deliveries = conn.prepare_cached(concat!(
        "UPDATE termitary_deliveries AS d SET state = 0, fence = 0, worker = NULL, lease_us = NULL
         WHERE d.event = ?1 ",
        piece!(sqlite [leased_under "1"]),
        " AND d.worker = 'relay' AND d.entry IS NULL AND d.lease_us = ?2"
    ))?;
    let mut events =
        conn.prepare_cached("UPDATE termitary_events SET fanned = 0 WHERE seq = ?1")?;
    for seq in seqs {
        if deliveries.execute([*seq, until_us])? > 0 {
            events.execute([seq])?;
        }
    }
    Ok(())
}

/// The events of deliveries whose lease ends between the two instants.
pub(crate) async fn leased_between(
    conn: &mut Conn,
    first_us: i64,
    last_us: i64,
) -> Result<HashSet<i64>, Error> {
    const LEASED: Statement = statement!(
        "SELECT ", [listed "event"], " FROM termitary_deliveries
         WHERE state = 1 AND lease_us BETWEEN $1 AND $2"
    );
    let seqs: String = sqlx::query_scalar(LEASED.on(conn))
        .bind(first_us)
        .bind(last_us)
        .fetch_one(conn)
        .await?;
    gathered(&seqs)
}

/// Records the stream entry that carries each event to all its subscriptions, and trusts
/// Redis with them until `until_us`, if that is given. The lease of a worker that renewed
/// it stays.
pub(crate) async fn record_events(
    db: &Db,
    entries: Vec<(i64, String)>,
    until_us: Option<i64>,
) -> Result<(), Error> {
    match db.engine() {
        Engine::Sqlite(_) => {
            db.write(move |conn| record_events_on_sqlite(conn, &entries, until_us))
                .await
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres(_) => {
            const RECORD: &str = concat!(
                "UPDATE termitary_deliveries AS d SET entry = n.entry,
                    lease_us = CASE WHEN d.worker = 'relay' THEN coalesce($3, d.lease_us) ELSE d.lease_us END
                 FROM unnest($1::bigint[], $2::text[]) AS n (event, entry) WHERE d.event = n.event ",
                piece!(postgres [leased_under "1"]),
                " AND d.entry IS NULL"
            );
            let (seqs, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            let mut conn = db.renewer().await?;
            sqlx::query(RECORD)
                .bind(seqs)
                .bind(entries)
                .bind(until_us)
                .execute(conn.postgres()?)
                .await?;
            Ok(())
        }
    }
}

fn record_events_on_sqlite(
    conn: &Connection,
    entries: &[(i64, String)],
    until_us: Option<i64>,
) -> Result<(), Error> {
    let mut record = conn.prepare_cached(concat!(
        "UPDATE termitary_deliveries AS d SET entry = ?2,
            lease_us = iif(d.worker = 'relay', coalesce(?3, d.lease_us), d.lease_us)
         WHERE d.event = ?1 ",
        piece!(sqlite [leased_under "1"]),
        " AND d.entry IS NULL"
    ))?;
    for (seq, entry) in entries {
        record.execute(params![seq, entry, until_us])?;
    }
    Ok(())
}
