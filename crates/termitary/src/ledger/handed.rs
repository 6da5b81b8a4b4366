//! Ending attempts of what was handed to Redis, in a transaction that does more:
//! it adopts, or finds out what is to be told to the stream. The same rules as in
//! `batch`, which has them for the thread that writes.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use serde_json::json;
use sqlx::{Either, Executor};

use crate::db::Conn;
use crate::delivery::{Outcome, Settlement};
use crate::error::Error;
use crate::planted;

use super::settle::{SETTLE, add_done, settle_row};
use super::{SIZES, size_for};

/// What simply succeeded: nearly everything.
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

/// Now, then row, route and fence of each; what is not bound is null, and no
/// row's. No numbered parameters: finding the name of one walks the list of all.
fn settle_done_sql(rows: usize, before: &str, returning: &str) -> &'static str {
    let sql = format!(
        "{before}WITH now (at) AS (VALUES (?)), ended (event, subscription, fence) AS (VALUES {})
         UPDATE termitary_deliveries AS d SET state = 2, reason = NULL, settled_us = (SELECT at FROM now),
            worker = NULL, lease_us = NULL, entry = NULL
         FROM ended WHERE d.event = ended.event AND d.subscription = ended.subscription
            /* owner */ AND d.fence = ended.fence AND d.state = 1{returning}",
        vec!["(?,?,?)"; rows].join(",")
    );
    planted::owned(sql.leak())
}

type Row = (i64, i64, i64);

/// Settles what belongs to the ledger; answers, in order, whether each claim
/// still held. A delivery that its handler's own transaction finished counts
/// as held.
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
    count_done(conn, settlements, &held).await?;
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
    Ok(sqlx::query_as(planted::owned(SETTLE))
        .bind(json!(rows).to_string())
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
