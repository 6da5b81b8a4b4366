//! Reading the ledger: history and counts for operators, what is due for brokers.

use crate::db::{Conn, Db};
use crate::error::Error;
use crate::event::Envelope;

use super::gathered;
use super::rows::{StoredEvent, Text, event_columns};
use super::single_writer::{Table, complete};
use super::sql::{Statement, statement};

/// Events after `seq` in commit order, and the `seq` to go on from. Rows that cannot be
/// read are left out, with a line in the log.
pub(crate) async fn read(db: &Db, after: i64, limit: u32) -> Result<(Vec<Envelope>, i64), Error> {
    let rows: Vec<StoredEvent> = sqlx::query_as(concat!(
        "SELECT e.seq, ",
        event_columns!(),
        " FROM termitary_events e WHERE e.seq > $1 AND e.seq <= $3 ORDER BY e.seq LIMIT $2 + 0"
    ))
    .bind(after)
    .bind(i64::from(limit))
    .bind(complete(db, Table::Events).await?)
    .fetch_all(&mut *db.read().await?)
    .await?;
    let next = rows.last().map_or(after, |row| row.seq);
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        match row.read() {
            Ok(event) => events.push(event),
            Err(error) => tracing::warn!(%error, "left out an event"),
        }
    }
    Ok((events, next))
}

/// Counts the events that the ledger keeps.
pub(crate) async fn count_events(db: &Db) -> Result<u64, Error> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events")
        .fetch_one(&mut *db.read().await?)
        .await?;
    Ok(count as u64)
}

/// One subscription's row and the counts of its unfinished deliveries.
#[derive(sqlx::FromRow)]
pub(crate) struct Tally {
    pub(crate) id: i64,
    pub(crate) name: Text,
    pub(crate) event: Text,
    pub(crate) done: i64,
    pub(crate) pending: i64,
    pub(crate) due: i64,
    pub(crate) leased: i64,
    pub(crate) dead: i64,
    pub(crate) parked: i64,
    pub(crate) oldest_us: Option<i64>,
}

/// Counts per subscription. Finished deliveries are counted as they finish,
/// so this reads only what is unfinished.
pub(crate) async fn tally(db: &Db) -> Result<Vec<Tally>, Error> {
    const TALLY: Statement = statement!(
        "SELECT s.id, s.name, s.event, s.done,
            (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.state = 0 AND d.subscription = s.id)
            + (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.crashes >= 2 AND d.state <= 1 AND d.state = -1 AND d.subscription = s.id) AS pending,
            (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.state = 0 AND d.subscription = s.id AND d.due_us <= $1)
            + (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.crashes >= 2 AND d.state <= 1 AND d.state = -1 AND d.subscription = s.id AND d.due_us <= $1) AS due,
            (SELECT COUNT(*) FROM termitary_deliveries d", [by "termitary_deliveries_leased"], " WHERE d.state = 1 AND d.subscription = s.id) AS leased,
            (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.state >= 3 AND d.state = 3 AND d.subscription = s.id) AS dead,
            (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.state >= 3 AND d.state = 4 AND d.subscription = s.id) AS parked,
            (SELECT MIN(d.due_us) FROM termitary_deliveries d WHERE d.state = 0 AND d.subscription = s.id) AS oldest_us
         FROM termitary_subscriptions s ORDER BY s.name"
    );
    let mut conn = db.read().await?;
    Ok(sqlx::query_as(TALLY.on(&conn))
        .bind(db.clock().now_us())
        .fetch_all(&mut *conn)
        .await?)
}

/// Of these subscriptions, those that have something pending, and when the first of
/// it is due.
pub(crate) async fn heads(conn: &mut Conn, routes: &[i64]) -> Result<Vec<(i64, i64)>, Error> {
    const HEADS: Statement = statement!(
        "SELECT ", [gathered "route, due_us"], " FROM (
            SELECT ", [an_int], " AS route,
                (SELECT MIN(d.due_us) FROM termitary_deliveries d WHERE d.state = 0 AND d.subscription = ", [an_int], ") AS due_us
            FROM ", [rows], ") h
         WHERE due_us IS NOT NULL"
    );
    let heads: String = sqlx::query_scalar(HEADS.on(conn))
        .bind(serde_json::json!(routes).to_string())
        .fetch_one(conn)
        .await?;
    gathered(&heads)
}
