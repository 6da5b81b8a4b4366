//! The deliveries whose entries were read from a stream, as the ledger has them.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use super::rows::{Bytes, Text};
use super::sql::Row;
use crate::db::Conn;
use crate::error::Error;

/// A delivery, as the ledger has it.
#[derive(serde::Deserialize)]
pub(crate) struct Standing {
    pub(crate) seq: i64,
    /// Which event that is here: an entry of another ledger may name the same `seq`.
    pub(crate) id: Uuid,
    /// Missing: the subscription is younger than the event.
    pub(crate) state: Option<i64>,
    pub(crate) attempts: Option<i64>,
    pub(crate) fence: Option<i64>,
    /// The entry that carries it.
    pub(crate) entry: Option<String>,
    /// Up to which entry its subscription may have been given entries before.
    pub(crate) doubt_ms: Option<i64>,
    /// 1 where no entry is known and the ledger owes it again before `soon_us`.
    pub(crate) soon_owed: Option<i64>,
}

/// Returns the deliveries of these events to `route`, by `seq`. Events that the ledger
/// does not have are left out.
pub(crate) async fn standing(
    conn: &mut Conn,
    route: i64,
    seqs: &[i64],
    soon_us: i64,
) -> Result<HashMap<i64, Standing>, Error> {
    let rows: Bytes = sqlx::query_scalar(
        "SELECT json_group_array(json_array(e.seq, hex(e.id), d.state, d.attempts, d.fence, d.entry,
            (SELECT doubt_ms FROM termitary_subscriptions WHERE id = $2),
            d.entry IS NULL AND d.lease_us < $3))
         FROM json_each($1) j JOIN termitary_events e ON e.seq = j.value
         LEFT JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = $2",
    )
    .bind(json!(seqs).to_string())
    .bind(route)
    .bind(soon_us)
    .fetch_one(&mut *conn)
    .await?;
    let rows = match serde_json::from_slice::<Vec<Standing>>(&rows.0) {
        Ok(rows) => rows,
        Err(_) => standing_one_by_one(conn, route, seqs, soon_us).await?,
    };
    Ok(rows.into_iter().map(|row| (row.seq, row)).collect())
}

/// The same where a row cannot be read, which is left out: what it says runs nowhere,
/// and the reconciler finds it.
async fn standing_one_by_one(
    conn: &mut Conn,
    route: i64,
    seqs: &[i64],
    soon_us: i64,
) -> Result<Vec<Standing>, Error> {
    let rows: Vec<StoredStanding> = sqlx::query_as(
        "SELECT e.seq, e.id, d.state, d.attempts, d.fence, d.entry,
            (SELECT doubt_ms FROM termitary_subscriptions WHERE id = $2) AS doubt_ms,
            d.entry IS NULL AND d.lease_us < $3 AS soon_owed
         FROM json_each($1) j JOIN termitary_events e ON e.seq = j.value
         LEFT JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = $2",
    )
    .bind(json!(seqs).to_string())
    .bind(route)
    .bind(soon_us)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().filter_map(StoredStanding::read).collect())
}

#[derive(sqlx::FromRow)]
struct StoredStanding {
    seq: i64,
    id: Bytes,
    state: Option<i64>,
    attempts: Option<i64>,
    fence: Option<i64>,
    entry: Option<Text>,
    doubt_ms: Option<i64>,
    soon_owed: Option<i64>,
}

impl StoredStanding {
    fn read(self) -> Option<Standing> {
        Some(Standing {
            seq: self.seq,
            id: self.id.uuid()?,
            state: self.state,
            attempts: self.attempts,
            fence: self.fence,
            entry: self.entry.map(|entry| entry.0),
            doubt_ms: self.doubt_ms,
            soon_owed: self.soon_owed,
        })
    }
}

/// Of these events, those whose delivery to `route` the ledger has already,
/// with the entry that is still to be counted where it is only noted as done.
pub(crate) async fn adopted(
    conn: &mut Conn,
    route: i64,
    events: &[Uuid],
) -> Result<HashMap<Uuid, Option<String>>, Error> {
    let ids: Vec<_> = events.iter().map(|id| id.simple().to_string()).collect();
    let found: Vec<(Uuid, Option<Text>)> = sqlx::query_as(
        "SELECT e.id, CASE d.state WHEN 2 THEN d.entry END
         FROM json_each($1) j JOIN termitary_events e ON e.id = unhex(j.value)
         JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = $2",
    )
    .bind(json!(ids).to_string())
    .bind(route)
    .fetch_all(conn)
    .await?;
    Ok(found
        .into_iter()
        .map(|(id, entry)| (id, entry.map(|entry| entry.0)))
        .collect())
}

/// The fence of the delivery that an entry carries: the entry's own, or a later
/// one under which it was given out again. `None` where `seq` is not this event
/// here: after the database was replaced, or where two of them share a Redis.
pub(crate) async fn fence(
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
