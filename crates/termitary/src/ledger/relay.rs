//! Deliveries that are due, and that the relay claims to hand them to Redis: see
//! [`super::handover`].

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};

use super::events::{Events, events};
use super::gathered;
use super::rows::{Unreadable, counters, park};
use super::sql::{Row, Statement, json, statement};
use crate::db::Conn;
use crate::error::Error;
use crate::event::Envelope;
use crate::planted;

/// The deliveries that one round hands over.
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

const CANDIDATES: Statement = statement!(
    "SELECT ", [gathered "event, attempts, fence, size"], " FROM (
        SELECT d.event, d.attempts, d.fence, coalesce(octet_length(e.data), 0) AS size
        FROM termitary_deliveries d LEFT JOIN termitary_events e ON e.seq = d.event
        WHERE d.state = 0 AND d.subscription = $1 AND d.due_us <= $2 ORDER BY d.due_us LIMIT $3 + 0) c"
);

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
        let rows: String = sqlx::query_scalar(CANDIDATES.on(conn))
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

const FAN: Statement =
    statement!("UPDATE termitary_events SET fanned = 1 WHERE seq IN ", [ints "$1"]);

const FRESH: Statement = statement!(
    "SELECT ", [listed "e.seq"], " FROM termitary_events e
     WHERE e.seq IN ", [ints "$1"], " AND e.fanned = 0
       AND NOT EXISTS (SELECT 1 FROM termitary_deliveries d
                       WHERE d.event = e.seq AND (d.state <> 0 OR d.fence <> 0 OR d.due_us > $2
                           OR NOT EXISTS (SELECT 1 FROM termitary_routes r
                                          WHERE r.event = e.name AND r.subscription = d.subscription)))"
);

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
    let fresh: String = sqlx::query_scalar(FRESH.on(conn))
        .bind(json(&first))
        .bind(now_us)
        .fetch_one(&mut *conn)
        .await?;
    sqlx::query(FAN.on(conn)).bind(&fresh).execute(conn).await?;
    gathered(&fresh)
}

const LEASED: Statement = statement!(
    "SELECT ", [gathered "event, subscription, fence"], " FROM termitary_deliveries
     WHERE event IN ", [ints "$1"]
);

const LEASE: Statement = statement!(
    "UPDATE termitary_deliveries SET state = 1, worker = 'relay', lease_us = $2, fence = 1, entry = NULL
     WHERE event IN ", [ints "$1"]
);

async fn lease_fresh(conn: &mut Conn, fresh: &[i64], until_us: i64) -> Result<Vec<Row>, Error> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let fresh = json(&fresh);
    sqlx::query(LEASE.on(conn))
        .bind(&fresh)
        .bind(until_us)
        .execute(&mut *conn)
        .await?;
    let rows: String = sqlx::query_scalar(LEASED.on(conn))
        .bind(&fresh)
        .fetch_one(conn)
        .await?;
    gathered(&rows)
}

const AGAIN: Statement = statement!(
    "UPDATE termitary_deliveries AS d
     SET state = 1, worker = 'relay', lease_us = $2, fence = d.fence + 1, entry = NULL
     FROM ", [rows], " WHERE d.event = ", [int 0], " AND d.subscription = ", [int 1],
    " AND d.state + 0 = 0 RETURNING event, subscription, fence"
);

async fn lease_again(conn: &mut Conn, rows: &[&Row], until_us: i64) -> Result<Vec<Row>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(AGAIN.on(conn))
        .bind(json(&rows))
        .bind(until_us)
        .fetch_all(conn)
        .await?)
}

/// Returns whether there are events since `since_us` that no subscription got and that
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
