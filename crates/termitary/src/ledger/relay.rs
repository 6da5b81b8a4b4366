//! What the relay and the reconciler of the redis broker ask of the ledger.
//!
//! A delivery handed to Redis is leased here, to `relay`, for as long as the
//! ledger trusts Redis with it (`lease_us`); `entry` names the stream entry
//! that carries it. The fence rises with every hand-over, so that an entry
//! from an earlier one is recognised and dropped.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;

use super::events::{Events, events};
use super::gathered;
use super::stored::{Bytes, Text, Unreadable, counters, park};
use crate::db::Conn;
use crate::error::Error;
use crate::event::Envelope;
use crate::planted;

/// A delivery by `(seq, route)` and the fence it was handed over with.
pub(crate) type Row = (i64, i64, i64);

/// What one round hands over.
#[derive(Default)]
pub(crate) struct Claimed {
    pub(crate) events: HashMap<i64, Envelope>,
    /// Events for all their subscriptions at once, under fence 1.
    pub(crate) fresh: Vec<i64>,
    /// Deliveries for one subscription each.
    pub(crate) again: Vec<Row>,
    /// Every delivery of the fresh events.
    pub(crate) fresh_rows: Vec<Row>,
}

/// Claims a page of what is due for `routes`, at most about `bytes` of payload. A
/// delivery whose row cannot be read is parked.
pub(crate) async fn claim(
    conn: &mut Conn,
    routes: &[i64],
    now_us: i64,
    until_us: i64,
    page: usize,
    bytes: i64,
) -> Result<Claimed, Error> {
    let Candidates {
        found,
        mut unreadable,
    } = candidates(conn, routes, now_us, page, bytes).await?;
    let seqs: HashSet<_> = found.iter().map(|(seq, ..)| *seq).collect();
    let events = events(conn, &seqs.into_iter().collect::<Vec<_>>()).await?;
    let (candidates, left): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(seq, ..)| !events.unreadable.contains_key(seq));
    let why = |(seq, route, _): Row| Some((*events.unreadable.get(&seq)?, route));
    unreadable.extend(left.into_iter().filter_map(why));
    park(conn, &unreadable, now_us).await?;
    if candidates.is_empty() {
        return Ok(Claimed::default());
    }
    let fresh = claim_fresh(conn, &candidates, now_us).await?;
    let fresh_rows = lease_fresh(conn, &fresh, until_us).await?;
    let whole: HashSet<_> = fresh.iter().copied().collect();
    let rest: Vec<_> = candidates
        .iter()
        .filter(|(seq, ..)| !whole.contains(seq))
        .collect();
    let again = lease_again(conn, &rest, until_us).await?;
    Ok(Claimed {
        events: events.readable,
        fresh,
        again,
        fresh_rows,
    })
}

#[derive(Default)]
struct Candidates {
    found: Vec<Row>,
    /// Of which routes.
    unreadable: Vec<(Unreadable, i64)>,
}

async fn candidates(
    conn: &mut Conn,
    routes: &[i64],
    now_us: i64,
    page: usize,
    bytes: i64,
) -> Result<Candidates, Error> {
    let share = (page / routes.len().max(1)).max(10);
    let Candidates {
        mut found,
        mut unreadable,
    } = Candidates::default();
    let mut room = bytes;
    for route in routes {
        let rows: String = sqlx::query_scalar(
            "SELECT json_group_array(json_array(event, attempts, fence, size)) FROM (
                SELECT d.event, d.attempts, d.fence, coalesce(octet_length(e.data), 0) AS size
                FROM termitary_deliveries d LEFT JOIN termitary_events e ON e.seq = d.event
                WHERE d.state = 0 AND d.subscription = $1 AND d.due_us <= $2 ORDER BY d.due_us LIMIT $3 + 0)",
        )
        .bind(route)
        .bind(now_us)
        .bind(share as i64)
        .fetch_one(&mut *conn)
        .await?;
        let rows: Vec<(i64, i64, i64, i64)> = gathered(&rows)?;
        for (seq, attempts, fence, size) in rows {
            if room <= 0 && !found.is_empty() {
                return Ok(Candidates { found, unreadable });
            }
            match counters(seq, attempts, fence) {
                Ok(_) => {
                    room -= size;
                    found.push((seq, *route, fence));
                }
                Err(why) => unreadable.push((why, *route)),
            }
        }
    }
    if planted::is("cursor-relay") {
        static MARK: AtomicI64 = AtomicI64::new(0);
        let last = found.iter().map(|(seq, ..)| *seq).max().unwrap_or(0);
        let mark = MARK.fetch_max(last, Ordering::Relaxed);
        found.retain(|(seq, ..)| *seq > mark);
    }
    Ok(Candidates { found, unreadable })
}

/// Of the candidates, the events that no subscription was given anything of,
/// and that all of them may have now and read the stream of: one that moved to
/// another event does not.
async fn claim_fresh(conn: &mut Conn, candidates: &[Row], now_us: i64) -> Result<Vec<i64>, Error> {
    let first: HashSet<_> = candidates
        .iter()
        .filter(|(.., fence)| *fence == 0)
        .map(|(seq, ..)| *seq)
        .collect();
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let fresh: String = sqlx::query_scalar(
        "SELECT json_group_array(e.seq) FROM termitary_events e
         WHERE e.seq IN (SELECT value FROM json_each($1)) AND e.fanned = 0
           AND NOT EXISTS (SELECT 1 FROM termitary_deliveries d
                           WHERE d.event = e.seq AND (d.state <> 0 OR d.fence <> 0 OR d.due_us > $2
                               OR NOT EXISTS (SELECT 1 FROM termitary_routes r
                                              WHERE r.event = e.name AND r.subscription = d.subscription)))",
    )
    .bind(json!(first.into_iter().collect::<Vec<_>>()).to_string())
    .bind(now_us)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE termitary_events SET fanned = 1 WHERE seq IN (SELECT value FROM json_each($1))",
    )
    .bind(&fresh)
    .execute(conn)
    .await?;
    gathered(&fresh)
}

async fn lease_fresh(conn: &mut Conn, fresh: &[i64], until_us: i64) -> Result<Vec<Row>, Error> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let fresh = json!(fresh).to_string();
    sqlx::query(
        "UPDATE termitary_deliveries SET state = 1, worker = 'relay', lease_us = $2, fence = 1, entry = NULL
         WHERE event IN (SELECT value FROM json_each($1))",
    )
    .bind(&fresh)
    .bind(until_us)
    .execute(&mut *conn)
    .await?;
    let rows: String = sqlx::query_scalar(
        "SELECT json_group_array(json_array(event, subscription, fence)) FROM termitary_deliveries
         WHERE event IN (SELECT value FROM json_each($1))",
    )
    .bind(&fresh)
    .fetch_one(conn)
    .await?;
    gathered(&rows)
}

async fn lease_again(conn: &mut Conn, rows: &[&Row], until_us: i64) -> Result<Vec<Row>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(
        "UPDATE termitary_deliveries AS d SET state = 1, worker = 'relay', lease_us = $2, fence = d.fence + 1, entry = NULL
         FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.state = 0
         RETURNING event, subscription, fence",
    )
    .bind(json!(rows).to_string())
    .bind(until_us)
    .fetch_all(conn)
    .await?)
}

/// Whether there are events since `since_us` that no subscription got and that
/// were not sent out on their plain channels.
pub(crate) async fn has_unrouted(conn: &mut Conn, since_us: i64) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM termitary_events WHERE fanned = -1 AND time_us >= $1)",
    )
    .bind(since_us)
    .fetch_one(conn)
    .await?)
}

/// Claims a page of those, the oldest first.
pub(crate) async fn claim_unrouted(
    conn: &mut Conn,
    since_us: i64,
    page: usize,
) -> Result<Vec<Envelope>, Error> {
    let mut seqs: Vec<i64> = sqlx::query_scalar(
        "UPDATE termitary_events SET fanned = 1 WHERE seq IN
            (SELECT seq FROM termitary_events WHERE fanned = -1 AND time_us >= $1 ORDER BY time_us LIMIT $2 + 0)
         RETURNING seq",
    )
    .bind(since_us)
    .bind(page as i64)
    .fetch_all(&mut *conn)
    .await?;
    seqs.sort_unstable();
    let Events {
        mut readable,
        unreadable,
    } = events(conn, &seqs).await?;
    for error in unreadable.values() {
        tracing::warn!(%error, "an event is not sent out on its plain channel");
    }
    Ok(seqs.iter().filter_map(|seq| readable.remove(seq)).collect())
}

/// Notes which stream entry carries each delivery.
pub(crate) async fn record(conn: &mut Conn, entries: &[(Row, String)]) -> Result<(), Error> {
    let rows: Vec<_> = entries
        .iter()
        .map(|((seq, route, fence), entry)| json!([seq, route, fence, entry]))
        .collect();
    sqlx::query(
        "UPDATE termitary_deliveries AS d SET entry = j.value->>3 FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1",
    )
    .bind(json!(rows).to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Undoes a hand-over that certainly did not happen.
pub(crate) async fn undo(conn: &mut Conn, fresh: &[i64], rows: &[Row]) -> Result<(), Error> {
    sqlx::query(
        "UPDATE termitary_deliveries AS d SET state = 0, fence = d.fence - 1, worker = NULL, lease_us = NULL
         FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1",
    )
    .bind(json!(rows).to_string())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE termitary_events SET fanned = 0 WHERE seq IN (SELECT value FROM json_each($1))",
    )
    .bind(json!(fresh).to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Trusts Redis with these deliveries until `until_us`.
pub(crate) async fn trust(conn: &mut Conn, rows: &[(Row, i64)]) -> Result<(), Error> {
    let rows: Vec<_> = rows
        .iter()
        .map(|((seq, route, fence), until)| json!([seq, route, fence, until]))
        .collect();
    sqlx::query(
        "UPDATE termitary_deliveries AS d SET lease_us = j.value->>3 FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1",
    )
    .bind(json!(rows).to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes deliveries pending that Redis does not have (any more): to be handed
/// over again. Nobody crashed. Answers how many.
pub(crate) async fn owe(conn: &mut Conn, rows: &[Row]) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE termitary_deliveries AS d SET state = 0, worker = NULL, lease_us = NULL, entry = NULL
         FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1",
    )
    .bind(json!(rows).to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Extends what a worker runs, in its name, each until its own time; answers
/// those that still are its.
pub(crate) async fn renew(
    conn: &mut Conn,
    rows: &[(i64, i64, i64, &str, i64)],
) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as(
        "UPDATE termitary_deliveries AS d SET lease_us = j.value->>4, worker = j.value->>3 FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1
         RETURNING event, subscription, fence",
    )
    .bind(json!(rows).to_string())
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

/// A page of deliveries handed to Redis (suspects never are) whose trust ended before `now_us`.
pub(crate) async fn overdue(
    conn: &mut Conn,
    now_us: i64,
    page: usize,
) -> Result<Vec<Trusted>, Error> {
    Ok(sqlx::query_as(
        "SELECT d.event AS seq, e.id, d.subscription AS route, d.fence, d.due_us, d.entry
         FROM termitary_deliveries d JOIN termitary_events e ON e.seq = d.event
         WHERE d.state = 1 AND d.lease_us < $1 AND d.crashes < 2 ORDER BY d.lease_us LIMIT $2 + 0",
    )
    .bind(now_us)
    .bind(page as i64)
    .fetch_all(conn)
    .await?)
}

/// Trusts Redis with nothing that no live worker renewed: it may have lost
/// everything. What is on its way there, without an entry, is looked after at
/// `soon_us`.
pub(crate) async fn distrust(conn: &mut Conn, now_us: i64, soon_us: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE termitary_deliveries SET lease_us = iif(entry IS NULL, min(lease_us, $2), 0)
         WHERE state = 1 AND crashes < 2 AND (worker = 'relay' OR lease_us < $1)",
    )
    .bind(now_us)
    .bind(soon_us)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// How many deliveries of each subscription are handed to Redis.
pub(crate) async fn handed(conn: &mut Conn) -> Result<HashMap<i64, u64>, Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT subscription, COUNT(*) FROM termitary_deliveries INDEXED BY termitary_deliveries_leased
         WHERE state = 1 AND crashes < 2 GROUP BY subscription",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(route, n)| (route, n as u64))
        .collect())
}
