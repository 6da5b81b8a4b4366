//! Leasing by row state.

use std::sync::LazyLock;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::super::lease::leased;
use super::super::rows::{Bytes, PARK, StoredEvent, Unreadable, counters, event_columns, park_row};
use super::super::verbs::Lease;
use super::{Binder, Sized, list};
use crate::delivery::{Leased, WorkerId};
use crate::error::Error;

pub(super) const HEAD: &str = concat!(
    "SELECT d.event, ",
    event_columns!(),
    ", d.attempts, d.fence
     FROM termitary_deliveries d LEFT JOIN termitary_events e ON e.seq = d.event
     WHERE d.state = 0 AND d.subscription = ?1 AND d.due_us <= ?2
     ORDER BY d.due_us, d.event LIMIT ?3 + 0"
);

/// By their keys: a walk along the index that it changes costs a quarter more.
pub(super) static CLAIM: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(|rows| {
        format!(
            "UPDATE termitary_deliveries SET state = 1, worker = ?, lease_us = ?, fence = fence + 1
             WHERE state = 0 AND subscription = ? AND event IN ({})",
            list("?", rows)
        )
    })
});

/// Leases up to `max` due deliveries of one subscription until `until_us`.
/// The transaction keeps every other writer out, so that what is read is what
/// is claimed. A delivery whose row cannot be read is parked.
pub(in crate::ledger) fn lease(conn: &Connection, asked: &Lease) -> Result<Vec<Leased>, Error> {
    let Lease {
        route,
        worker,
        max,
        now_us,
        until_us,
    } = asked;
    let (route, now_us, until_us) = (*route, *now_us, *until_us);
    let mut head = conn.prepare_cached(HEAD)?;
    let mut rows = head.query(params![route, now_us, *max as i64])?;
    let mut found = Vec::new();
    let mut seqs = Vec::new();
    let mut unreadable = Vec::new();
    while let Some(row) = rows.next()? {
        let event = event(row)?;
        let seq = event.seq;
        let counters = counters(seq, row.get(10)?, row.get(11)?);
        match counters.and_then(|counters| Ok((counters, event.read()?))) {
            Ok(((attempts, fence), envelope)) => {
                seqs.push(seq);
                let fence = fence + 1;
                found.push(leased(route, worker, attempts, fence, seq, envelope));
            }
            Err(why) => unreadable.push(why),
        }
    }
    claim(conn, route, worker, until_us, &seqs)?;
    park(conn, route, &unreadable, now_us)?;
    Ok(found)
}

fn park(
    conn: &Connection,
    route: i64,
    unreadable: &[Unreadable],
    now_us: i64,
) -> Result<(), Error> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = unreadable.iter().map(|it| park_row(it, route)).collect();
    conn.prepare_cached(PARK.sqlite)?
        .execute(params![json!(rows).to_string(), now_us])?;
    Ok(())
}

fn claim(
    conn: &Connection,
    route: i64,
    worker: &WorkerId,
    until_us: i64,
    mut seqs: &[i64],
) -> Result<(), Error> {
    while !seqs.is_empty() {
        let (mut statement, rows) = CLAIM.at_least(conn, seqs.len())?;
        let (now, later) = seqs.split_at(rows);
        let mut binder = Binder::new(&mut statement);
        binder.next(&**worker)?;
        binder.next(until_us)?;
        binder.next(route)?;
        for seq in now {
            binder.next(seq)?;
        }
        statement.raw_execute()?;
        seqs = later;
    }
    Ok(())
}

/// The first columns of a row, which are an event's.
fn event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    let bytes = |column: usize| -> rusqlite::Result<Option<Bytes>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes(bytes.to_vec())),
            _ => None,
        })
    };
    Ok(StoredEvent {
        seq: row.get(0)?,
        id: bytes(1)?,
        name: bytes(2)?,
        version: row.get(3)?,
        source: bytes(4)?,
        time_us: row.get(5)?,
        key: bytes(6)?,
        traceparent: bytes(7)?,
        cause: bytes(8)?,
        data: bytes(9)?,
    })
}
