//! What the process that carries its events to their streams asks of the ledger:
//! they are leased as in `relay`, under the first fence.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::gathered;
use crate::db::Conn;
use crate::error::Error;

/// Makes events pending again that were leased until `until_us` to be carried, and
/// certainly did not arrive.
pub(crate) fn give_back(conn: &Connection, seqs: &[i64], until_us: i64) -> Result<(), Error> {
    // Only that lease: a later one may have the same fence.
    let mut deliveries = conn.prepare_cached(
        "UPDATE termitary_deliveries SET state = 0, fence = 0, worker = NULL, lease_us = NULL
         WHERE event = ?1 AND fence = 1 AND state = 1
           AND worker = 'relay' AND entry IS NULL AND lease_us = ?2",
    )?;
    let mut events =
        conn.prepare_cached("UPDATE termitary_events SET fanned = 0 WHERE seq = ?1")?;
    for seq in seqs {
        if deliveries.execute([*seq, until_us])? > 0 {
            events.execute([seq])?;
        }
    }
    Ok(())
}

/// The events of deliveries whose lease ends between the two.
pub(crate) async fn leased_until(
    conn: &mut Conn,
    first_us: i64,
    last_us: i64,
) -> Result<HashSet<i64>, Error> {
    let seqs: String = sqlx::query_scalar(
        "SELECT json_group_array(event) FROM termitary_deliveries
         WHERE state = 1 AND lease_us BETWEEN $1 AND $2",
    )
    .bind(first_us)
    .bind(last_us)
    .fetch_one(conn)
    .await?;
    gathered(&seqs)
}

/// Notes which stream entry carries each event, to all its subscriptions, and
/// trusts Redis with them until `until_us`, where that is given.
pub(crate) fn note(
    conn: &Connection,
    entries: &[(i64, String)],
    until_us: Option<i64>,
) -> Result<(), Error> {
    // Where a worker renewed its lease, that one counts.
    let mut note = conn.prepare_cached(
        "UPDATE termitary_deliveries SET entry = ?2,
            lease_us = iif(worker = 'relay', coalesce(?3, lease_us), lease_us)
         WHERE event = ?1 AND fence = 1 AND state = 1 AND entry IS NULL",
    )?;
    for (seq, entry) in entries {
        note.execute(params![seq, entry, until_us])?;
    }
    Ok(())
}
