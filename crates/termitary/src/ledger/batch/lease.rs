//! Leasing by row state.

use std::sync::LazyLock;

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::super::lease::leased;
use super::super::{EventRow, event_columns};
use super::{Binder, Sized, list};
use crate::broker::{Leased, WorkerId};
use crate::error::Error;

const HEAD: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", d.attempts, d.fence
     FROM termitary_deliveries d JOIN termitary_events e ON e.seq = d.event
     WHERE d.state = 0 AND d.subscription = ?1 AND d.due_us <= ?2
     ORDER BY d.due_us, d.event LIMIT ?3 + 0"
);

/// By their keys: a walk along the index that it changes costs a quarter more.
static CLAIM: LazyLock<Sized> = LazyLock::new(|| {
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
/// is claimed.
pub(crate) fn lease(
    conn: &Connection,
    route: i64,
    worker: &WorkerId,
    max: usize,
    now_us: i64,
    until_us: i64,
) -> Result<Vec<Leased>, Error> {
    let mut head = conn.prepare_cached(HEAD)?;
    let mut rows = head.query(params![route, now_us, max as i64])?;
    let mut found = Vec::new();
    let mut seqs = Vec::new();
    while let Some(row) = rows.next()? {
        let event = event(row)?;
        seqs.push(event.seq);
        let (attempts, fence): (i64, i64) = (row.get(10)?, row.get(11)?);
        found.push(leased(route, worker, attempts, fence + 1, event)?);
    }
    claim(conn, route, worker, until_us, &seqs)?;
    Ok(found)
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
fn event(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        seq: row.get(0)?,
        id: Uuid::from_bytes(row.get(1)?),
        name: row.get(2)?,
        version: row.get(3)?,
        source: row.get(4)?,
        time_us: row.get(5)?,
        key: row.get(6)?,
        traceparent: row.get(7)?,
        cause: row.get::<_, Option<[u8; 16]>>(8)?.map(Uuid::from_bytes),
        data: row.get(9)?,
    })
}
