//! What Redis may have given out before, and has forgotten: whoever is given
//! it again gets it under a higher fence.

use serde_json::json;
use uuid::Uuid;

use super::relay::Row;
use super::stored::Text;
use crate::db::Conn;
use crate::error::Error;

/// The server that entries of `route` were last read from.
pub(crate) async fn server(conn: &mut Conn, route: i64) -> Result<Option<String>, Error> {
    let found: Option<Option<Text>> =
        sqlx::query_scalar("SELECT server FROM termitary_subscriptions WHERE id = $1")
            .bind(route)
            .fetch_optional(conn)
            .await?;
    Ok(found.flatten().map(|server| server.0))
}

/// Notes the server that entries of `route` are read from now.
pub(crate) async fn meet(conn: &mut Conn, route: i64, server: &str) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET server = $2 WHERE id = $1")
        .bind(route)
        .bind(server)
        .execute(conn)
        .await?;
    Ok(())
}

/// Entries of `route` up to these milliseconds may have been given out before.
pub(crate) async fn raise(conn: &mut Conn, route: i64, until_ms: i64) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET doubt_ms = $2 WHERE id = $1 AND doubt_ms < $2")
        .bind(route)
        .bind(until_ms)
        .execute(conn)
        .await?;
    Ok(())
}

/// A delivery that is given out again with the entry that carries it.
pub(crate) struct Again<'a> {
    pub(crate) row: Row,
    pub(crate) worker: &'a str,
    pub(crate) entry: String,
}

/// Gives each the next fence, where it stands unchanged and there is a next one;
/// returns the new rows.
pub(crate) async fn refence(
    conn: &mut Conn,
    again: &[Again<'_>],
    until_us: i64,
) -> Result<Vec<Row>, Error> {
    let rows: Vec<_> = again
        .iter()
        .map(|Again { row, worker, entry }| json!([row.0, row.1, row.2, worker, entry]))
        .collect();
    Ok(sqlx::query_as(
        "UPDATE termitary_deliveries AS d SET fence = d.fence + 1, lease_us = $2, worker = j.value->>3, entry = j.value->>4
         FROM json_each($1) j
         WHERE d.event = j.value->>0 AND d.subscription = j.value->>1 AND d.fence = j.value->>2 AND d.state = 1
           AND d.fence < 9223372036854775807
         RETURNING event, subscription, fence",
    )
    .bind(json!(rows).to_string())
    .bind(until_us)
    .fetch_all(conn)
    .await?)
}

/// The fence of the delivery that an entry carries: the entry's own, or a later
/// one under which it was given out again. `None` where `seq` is not this event
/// here: after the database was replaced, or where two of them share a Redis.
pub(crate) async fn carried(
    conn: &mut Conn,
    (seq, route, fence): Row,
    id: Uuid,
    entry: &str,
) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT COALESCE((SELECT d.fence FROM termitary_deliveries d
                          WHERE d.event = e.seq AND d.subscription = $3 AND d.entry = $4), $5)
         FROM termitary_events e WHERE e.seq = $1 AND e.id = $2",
    )
    .bind(seq)
    .bind(id)
    .bind(route)
    .bind(entry)
    .bind(fence)
    .fetch_optional(conn)
    .await?)
}
