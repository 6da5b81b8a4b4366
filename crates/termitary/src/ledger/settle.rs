//! Ending attempts. Each change compares state and fence: who lost the lease
//! changes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use serde_json::json;
use sqlx::{Either, Executor, SqliteConnection};

use crate::broker::{Claim, Origin, Outcome, Settlement};
use crate::error::Error;
#[cfg(feature = "redis")]
use crate::event::Envelope;
use crate::planted;

use super::{SIZES, size_for, state};

/// What is pending again and was a suspect (-1) stays one.
pub(super) const SETTLE: &str = "
    UPDATE termitary_deliveries AS d SET
        state = CASE WHEN j.value->>3 = 0 AND d.crashes >= 2 THEN -1 ELSE j.value->>3 END,
        due_us = COALESCE(j.value->>4, d.due_us), attempts = d.attempts + (j.value->>5),
        reason = j.value->>6, error = COALESCE(j.value->>7, d.error), settled_us = j.value->>8,
        worker = NULL, lease_us = NULL, entry = NULL
    FROM json_each($1) j
    WHERE d.event = j.value->>0 AND d.subscription = j.value->>1
        /* owner */ AND d.fence = j.value->>2 AND d.state = 1
    RETURNING event, subscription, fence";

/// The same for what simply succeeded: nearly everything.
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
    conn: &mut SqliteConnection,
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
    conn: &mut SqliteConnection,
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
    conn: &mut SqliteConnection,
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
    conn: &mut SqliteConnection,
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
    conn: &mut SqliteConnection,
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

/// What ended otherwise than well.
pub(super) fn settle_row(settlement: &Settlement, now_us: i64) -> Option<serde_json::Value> {
    use state::{DEAD, PARKED, PENDING};
    let (seq, route, fence) = settlement.claim.row()?;
    Some(match &settlement.outcome {
        Outcome::Done { .. } => return None,
        Outcome::Retry { due_us, error } => {
            json!([seq, route, fence, PENDING, due_us, 1, null, error, null])
        }
        Outcome::Snooze { due_us } => {
            json!([seq, route, fence, PENDING, due_us, 0, null, null, null])
        }
        Outcome::Dead {
            reason,
            error,
            counted,
        } => {
            let counted = i64::from(*counted);
            json!([
                seq, route, fence, DEAD, null, counted, reason, error, now_us
            ])
        }
        Outcome::Parked { reason, error } => {
            json!([seq, route, fence, PARKED, null, 0, reason, error, now_us])
        }
    })
}

async fn count_done(
    conn: &mut SqliteConnection,
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

async fn add_done(conn: &mut SqliteConnection, route: i64, n: i64) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET done = done + $2 WHERE id = $1")
        .bind(route)
        .bind(n)
        .execute(conn)
        .await?;
    Ok(())
}

/// Marks a delivery done inside its handler's transaction. `false`: it was
/// settled or taken over elsewhere, and the transaction must roll back.
pub(crate) async fn finish(
    conn: &mut SqliteConnection,
    claim: &Claim,
    now_us: i64,
) -> Result<bool, Error> {
    let finished = match &claim.origin {
        Origin::Ledger { seq, .. } => finish_row(conn, *seq, claim, now_us).await?,
        #[cfg(feature = "redis")]
        Origin::Stream { envelope, .. } => {
            // The inbox: the first to insert the row wins.
            let seq = adopt_event(conn, envelope).await?;
            let done = Adopted::Done {
                at_us: now_us,
                entry: None,
            };
            adopt_delivery(conn, seq, claim, done).await?
        }
    };
    if finished {
        add_done(conn, claim.route, 1).await?;
    }
    Ok(finished)
}

async fn finish_row(
    conn: &mut SqliteConnection,
    seq: i64,
    claim: &Claim,
    now_us: i64,
) -> Result<bool, Error> {
    let row = sqlx::query(planted::owned(
        "UPDATE termitary_deliveries SET state = $4, worker = NULL, lease_us = NULL, entry = NULL, reason = NULL, settled_us = $6
         WHERE event = $1 AND subscription = $2 /* owner */ AND fence = $3 AND state = $5",
    ))
    .bind(seq)
    .bind(claim.route)
    .bind(claim.fence)
    .bind(state::DONE)
    .bind(state::LEASED)
    .bind(now_us)
    .execute(conn)
    .await?;
    Ok(row.rows_affected() == 1)
}

/// Takes a stream-only delivery into the ledger as leased under fence 1, so
/// that it can be settled like any other. `None`: the ledger has it already.
#[cfg(feature = "redis")]
pub(crate) async fn adopt(
    conn: &mut SqliteConnection,
    claim: &Claim,
    envelope: &Envelope,
    until_us: i64,
) -> Result<Option<Claim>, Error> {
    let seq = adopt_event(conn, envelope).await?;
    if !adopt_delivery(conn, seq, claim, Adopted::Leased { until_us }).await? {
        return Ok(None);
    }
    let origin = Origin::Ledger { seq, entry: None };
    Ok(Some(Claim {
        fence: 1,
        origin,
        ..claim.clone()
    }))
}

/// Notes a stream-only delivery as finished while its entry may still be given
/// out. It counts when `entry` ends, not here: that may have happened already.
/// `false`: the ledger has the delivery already.
#[cfg(feature = "redis")]
pub(crate) async fn note(
    conn: &mut SqliteConnection,
    claim: &Claim,
    envelope: &Envelope,
    entry: &str,
    now_us: i64,
) -> Result<bool, Error> {
    let seq = adopt_event(conn, envelope).await?;
    let done = Adopted::Done {
        at_us: now_us,
        entry: Some(entry),
    };
    adopt_delivery(conn, seq, claim, done).await
}

#[cfg(feature = "redis")]
async fn adopt_event(conn: &mut SqliteConnection, envelope: &Envelope) -> Result<i64, Error> {
    let known: Option<i64> = sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
        .bind(envelope.id)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    let draft = crate::publish::Draft {
        envelope: envelope.clone(),
        due_us: 0,
        dedup: None,
    };
    let seqs = super::publish::insert_events(conn, &[draft]).await?;
    let seq =
        seqs.into_iter().flatten().next().ok_or_else(|| {
            Error::internal(format!("event {} could not be adopted", envelope.id))
        })?;
    // It stands on its stream for everyone already: only this delivery is owed.
    sqlx::query("UPDATE termitary_events SET fanned = 1 WHERE seq = $1")
        .bind(seq)
        .execute(conn)
        .await?;
    Ok(seq)
}

/// How a stream-only delivery stands when the ledger first hears of it.
#[cfg(feature = "redis")]
enum Adopted<'a> {
    Leased {
        until_us: i64,
    },
    /// `entry` where it still has to be counted.
    Done {
        at_us: i64,
        entry: Option<&'a str>,
    },
}

/// Whether the ledger did not have it.
#[cfg(feature = "redis")]
async fn adopt_delivery(
    conn: &mut SqliteConnection,
    seq: i64,
    claim: &Claim,
    adopted: Adopted<'_>,
) -> Result<bool, Error> {
    let (state, at_us, entry) = match adopted {
        Adopted::Leased { until_us } => (state::LEASED, until_us, None),
        Adopted::Done { at_us, entry } => (state::DONE, at_us, entry),
    };
    let row = sqlx::query(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us, fence, worker, lease_us, settled_us, entry)
         VALUES ($1, $2, $3, $4, 1, CASE WHEN $3 = 1 THEN $5 END, CASE WHEN $3 = 1 THEN $4 END, CASE WHEN $3 = 2 THEN $4 END, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(seq)
    .bind(claim.route)
    .bind(state)
    .bind(at_us)
    .bind(&*claim.worker)
    .bind(entry)
    .execute(conn)
    .await?;
    Ok(row.rows_affected() == 1)
}
