//! Ending attempts. Each change compares state and fence, so a worker that lost its lease
//! changes nothing. The thread that writes has a form of [`settle`] of its own, in `batch`.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use serde_json::json;
use sqlx::{Either, Executor};

use super::adopt::{Adopted, adopt_delivery, adopt_event};
use super::sql::{self, Row, Statement, held_returning, piece, statement};
use super::{SIZES, size_for, state};
use crate::db::Conn;
use crate::delivery::{Claim, Origin, Outcome, Settlement};
use crate::engine::EngineKind;
use crate::error::Error;
use crate::planted;

/// A suspect (-1) that is pending again stays one.
pub(super) const SETTLE: Statement = held_returning!([
    "state = CASE WHEN ",
    [int 3],
    " = 0 AND d.crashes >= 2 THEN -1 ELSE ",
    [int 3],
    " END,
        due_us = COALESCE(",
    [int 4],
    ", d.due_us), attempts = d.attempts + (",
    [int 5],
    "),
        reason = ",
    [text 6],
    ", error = COALESCE(",
    [text 7],
    ", d.error), settled_us = ",
    [int 8],
    ",
        ",
    [free]
]);

/// The row of [`SETTLE`] for an attempt that did not simply succeed. `now_us` is stored
/// beside a due time, too: see [`super::due_later`].
pub(super) fn settle_row(settlement: &Settlement, now_us: i64) -> Option<serde_json::Value> {
    use state::{DEAD, PARKED, PENDING};
    let (seq, route, fence) = settlement.claim.row()?;
    Some(match &settlement.outcome {
        Outcome::Done { .. } => return None,
        Outcome::Retry { due_us, error } => {
            let error = without_zeros(error);
            json!([seq, route, fence, PENDING, due_us, 1, null, error, now_us])
        }
        Outcome::Snooze { due_us } => {
            json!([seq, route, fence, PENDING, due_us, 0, null, null, now_us])
        }
        Outcome::Dead {
            reason,
            error,
            counted,
        } => {
            let counted = i64::from(*counted);
            let error = without_zeros(error);
            json!([
                seq, route, fence, DEAD, null, counted, reason, error, now_us
            ])
        }
        Outcome::Parked { reason, error } => {
            let error = without_zeros(error);
            json!([seq, route, fence, PARKED, null, 0, reason, error, now_us])
        }
    })
}

/// A text without zero bytes, which PostgreSQL does not store.
pub(super) fn without_zeros(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

pub(super) async fn add_done(conn: &mut Conn, route: i64, n: i64) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET done = done + $2 WHERE id = $1")
        .bind(route)
        .bind(n)
        .execute(conn)
        .await?;
    Ok(())
}

/// Marks a delivery done inside its handler's transaction. Returns `false` if it was
/// settled or taken over elsewhere: the transaction must then roll back.
pub(crate) async fn finish(conn: &mut Conn, claim: &Claim, now_us: i64) -> Result<bool, Error> {
    match &claim.origin {
        Origin::Ledger { seq, .. } => finish_row(conn, *seq, claim, now_us).await,
        Origin::Stream { envelope, .. } => {
            // The inbox: the first to insert the row wins.
            let seq = adopt_event(conn, envelope).await?;
            let done = Adopted::Done {
                at_us: now_us,
                entry: None,
            };
            let finished = adopt_delivery(conn, seq, claim, done).await?;
            if finished {
                add_done(conn, claim.route, 1).await?;
            }
            Ok(finished)
        }
    }
}

/// In one way to the database's thread, as others wait for their turn.
async fn finish_row(conn: &mut Conn, seq: i64, claim: &Claim, now_us: i64) -> Result<bool, Error> {
    const FINISH: Statement = statement!(
        [after_cte "finished"],
        "UPDATE termitary_deliveries AS d SET ",
        [done "$4"],
        " WHERE d.event = $1 AND d.subscription = $2 ",
        [leased_under "$3"],
        [then "finished"],
        "UPDATE termitary_subscriptions SET done = done + 1 WHERE id = $2 AND ",
        [changed "finished"]
    );
    let done = sqlx::query(planted::owned(FINISH.on(conn)))
        .bind(seq)
        .bind(claim.route)
        .bind(claim.fence)
        .bind(now_us)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The statements for attempts that simply succeeded, which is nearly every one.
static SETTLE_DONE: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    SIZES
        .iter()
        .map(|&rows| {
            (
                settle_done_sql(rows, ATTEMPT, ""),
                settle_done_sql(rows, "", RETURNING),
            )
        })
        .collect()
});
/// In one round trip with what it is for; the end of the turn ends it.
const ATTEMPT: &str = "SAVEPOINT termitary_settle; ";
const UNDO: &str = "ROLLBACK TO SAVEPOINT termitary_settle";
const RETURNING: &str = " RETURNING event, subscription, fence";

/// Takes the time, then row, route and fence of each delivery; a value that is not bound
/// is null, which no row has. No numbered parameters: finding the name of one walks the list of all.
fn settle_done_sql(rows: usize, before: &str, returning: &str) -> &'static str {
    let sql = format!(
        "{before}WITH now (at) AS (VALUES (?)), ended (event, subscription, fence) AS (VALUES {})
         UPDATE termitary_deliveries AS d SET {} FROM ended
         WHERE d.event = ended.event AND d.subscription = ended.subscription {}{returning}",
        vec!["(?,?,?)"; rows].join(","),
        piece!(sqlite [done "(SELECT at FROM now)"]),
        piece!(sqlite [leased_under "ended.fence"])
    );
    planted::owned(sql.leak())
}

/// Settles what belongs to the ledger; returns, in order, whether each claim was still
/// valid. A delivery that its handler's own transaction finished counts as valid.
pub(crate) async fn settle(
    conn: &mut Conn,
    settlements: &[Settlement],
    now_us: i64,
) -> Result<Vec<bool>, Error> {
    let mut held = settle_done(conn, settlements, now_us).await?;
    held.extend(settle_others(conn, settlements, now_us).await?);
    // One process may end the lease that it lost together with the next of the
    // same delivery: the fence tells them apart, and each row was changed once.
    let held: Vec<_> = settlements
        .iter()
        .map(|s| s.claim.row().is_some_and(|row| held.remove(&row)))
        .collect();
    if conn.engine() == EngineKind::Sqlite {
        count_done(conn, settlements, &held).await?;
    }
    Ok(settlements
        .iter()
        .zip(held)
        .map(|(s, held)| held || s.outcome == Outcome::Done { committed: true })
        .collect())
}

async fn settle_done(
    conn: &mut Conn,
    settlements: &[Settlement],
    now_us: i64,
) -> Result<HashSet<Row>, Error> {
    let done: Vec<_> = settlements
        .iter()
        .filter(|s| s.outcome == Outcome::Done { committed: false })
        .filter_map(|s| s.claim.row())
        .collect();
    #[cfg(feature = "postgres")]
    if conn.engine() == EngineKind::Postgres {
        let held = super::on_postgres::settle_done(conn.postgres()?, &done, now_us).await?;
        return Ok(held.into_iter().collect());
    }
    let mut held = HashSet::with_capacity(done.len());
    let mut rest = &done[..];
    while !rest.is_empty() {
        let (place, rows) = size_for(rest.len());
        let (chunk, after) = rest.split_at(rows);
        let (all, each) = SETTLE_DONE[place];
        if rows >= FEW && all_held(conn, all, chunk, now_us).await? {
            held.extend(chunk);
        } else {
            held.extend(each_held(conn, each, chunk, now_us).await?);
        }
        rest = after;
    }
    Ok(held)
}

/// From so many on it pays to ask first whether all of them held: rows cross
/// from the database's thread one by one.
const FEW: usize = 8;

/// Settles all of them, or none where some no longer held.
async fn all_held(
    conn: &mut Conn,
    sql: &'static str,
    chunk: &[Row],
    now_us: i64,
) -> Result<bool, Error> {
    let mut query = sqlx::query(sql).bind(now_us);
    for (seq, route, fence) in chunk {
        query = query.bind(seq).bind(route).bind(fence);
    }
    let mut changed = 0;
    let mut ends = (&mut *conn).fetch_many(query);
    while let Some(end) = ends.try_next().await? {
        // The last statement's: the savepoint has none of its own.
        if let Either::Left(done) = end {
            changed = done.rows_affected();
        }
    }
    drop(ends);
    let all = changed == chunk.len() as u64;
    if !all {
        sqlx::raw_sql(UNDO).execute(conn).await?;
    }
    Ok(all)
}

/// Settles those that hold.
async fn each_held(
    conn: &mut Conn,
    sql: &'static str,
    chunk: &[Row],
    now_us: i64,
) -> Result<Vec<Row>, Error> {
    let mut query = sqlx::query_as(sql).bind(now_us);
    for (seq, route, fence) in chunk {
        query = query.bind(seq).bind(route).bind(fence);
    }
    Ok(query.fetch_all(conn).await?)
}

async fn settle_others(
    conn: &mut Conn,
    settlements: &[Settlement],
    now_us: i64,
) -> Result<Vec<Row>, Error> {
    let rows: Vec<_> = settlements
        .iter()
        .filter_map(|s| settle_row(s, now_us))
        .collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(planted::owned(SETTLE.on(conn)))
        .bind(sql::json(&rows))
        .fetch_all(conn)
        .await?)
}

async fn count_done(
    conn: &mut Conn,
    settlements: &[Settlement],
    held: &[bool],
) -> Result<(), Error> {
    let mut done: HashMap<i64, i64> = HashMap::new();
    for (settlement, held) in settlements.iter().zip(held) {
        if *held && settlement.outcome == (Outcome::Done { committed: false }) {
            *done.entry(settlement.claim.route).or_default() += 1;
        }
    }
    for (route, n) in done {
        add_done(conn, route, n).await?;
    }
    Ok(())
}
