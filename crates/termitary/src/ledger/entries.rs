//! The deliveries whose entries were read from a stream, as the ledger has them.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use super::rows::{Bytes, Text};
use super::sql::{Statement, statement};
use crate::db::Conn;
use crate::error::Error;

/// The deliveries of one route that the ledger has.
#[derive(Default)]
pub(crate) struct Known {
    /// By the `seq` of their event.
    pub(crate) rows: HashMap<i64, KnownRow>,
    /// Deliveries that came from a stream, by the id of their event, with the recorded entry
    /// if they are finished and still to be counted.
    pub(crate) adopted: HashMap<Uuid, Option<String>>,
}

/// One delivery.
#[derive(serde::Deserialize)]
pub(crate) struct KnownRow {
    pub(crate) seq: i64,
    /// The event's id: an entry of another ledger may name the same `seq`.
    pub(crate) id: Uuid,
    /// `None` if the subscription is younger than the event.
    pub(crate) state: Option<i64>,
    pub(crate) attempts: Option<i64>,
    pub(crate) fence: Option<i64>,
    /// The entry that carries it.
    pub(crate) entry: Option<String>,
    /// Entries up to this time may have been given to the subscription before.
    pub(crate) doubt_ms: Option<i64>,
    /// 1 if no entry is known and the ledger owes it again before `soon_us`.
    pub(crate) soon_owed: Option<i64>,
}

/// Returns the deliveries to `route` of events of the ledger (`seqs`), and those of stream
/// events (`ids`) that the ledger has adopted.
pub(crate) async fn known(
    conn: &mut Conn,
    route: i64,
    seqs: &[i64],
    ids: &[Uuid],
    soon_us: i64,
) -> Result<Known, Error> {
    let mut known = Known::default();
    if !seqs.is_empty() {
        known.rows = rows(conn, route, seqs, soon_us).await?;
    }
    if !ids.is_empty() {
        known.adopted = adopted(conn, route, ids).await?;
    }
    Ok(known)
}

/// Reads the deliveries of a route (`$2`) and of the events `$1`.
macro_rules! known {
    ($columns:tt, $id:tt) => {
        statement!(
            "SELECT ",
            $columns,
            " FROM (
                SELECT e.seq, ",
            $id,
            " AS id, d.state, d.attempts, d.fence, d.entry,
                    (SELECT doubt_ms FROM termitary_subscriptions WHERE id = $2) AS doubt_ms,
                    CASE WHEN d.entry IS NULL AND d.lease_us < $3 THEN 1 END AS soon_owed
                FROM ",
            [rows],
            " JOIN termitary_events e ON e.seq = ",
            [an_int],
            "
                LEFT JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = $2) k"
        )
    };
}

async fn rows(
    conn: &mut Conn,
    route: i64,
    seqs: &[i64],
    soon_us: i64,
) -> Result<HashMap<i64, KnownRow>, Error> {
    const GATHERED: Statement = known!([gathered "seq, id, state, attempts, fence, entry, doubt_ms, soon_owed"], [hex "e.id"]);
    let rows: Bytes = sqlx::query_scalar(GATHERED.on(conn))
        .bind(json!(seqs).to_string())
        .bind(route)
        .bind(soon_us)
        .fetch_one(&mut *conn)
        .await?;
    let rows = match serde_json::from_slice::<Vec<KnownRow>>(&rows.0) {
        Ok(rows) => rows,
        Err(_) => rows_one_by_one(conn, route, seqs, soon_us).await?,
    };
    Ok(rows.into_iter().map(|row| (row.seq, row)).collect())
}

/// The same without rows that cannot be read: such a delivery runs nowhere, and the
/// reconciler finds it.
async fn rows_one_by_one(
    conn: &mut Conn,
    route: i64,
    seqs: &[i64],
    soon_us: i64,
) -> Result<Vec<KnownRow>, Error> {
    const ROWS: Statement = known!("*", "e.id");
    let rows: Vec<StoredRow> = sqlx::query_as(ROWS.on(conn))
        .bind(json!(seqs).to_string())
        .bind(route)
        .bind(soon_us)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().filter_map(StoredRow::read).collect())
}

#[derive(sqlx::FromRow)]
struct StoredRow {
    seq: i64,
    id: Bytes,
    state: Option<i64>,
    attempts: Option<i64>,
    fence: Option<i64>,
    entry: Option<Text>,
    doubt_ms: Option<i64>,
    soon_owed: Option<i64>,
}

impl StoredRow {
    fn read(self) -> Option<KnownRow> {
        Some(KnownRow {
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

const ADOPTED: Statement = statement!(
    "SELECT e.id, CASE d.state WHEN 2 THEN d.entry END
     FROM ",
    [rows],
    " JOIN termitary_events e ON e.id = ",
    [a_uuid],
    "
     JOIN termitary_deliveries d ON d.event = e.seq AND d.subscription = $2"
);

async fn adopted(
    conn: &mut Conn,
    route: i64,
    events: &[Uuid],
) -> Result<HashMap<Uuid, Option<String>>, Error> {
    let ids: Vec<_> = events.iter().map(|id| id.simple().to_string()).collect();
    let found: Vec<(Uuid, Option<Text>)> = sqlx::query_as(ADOPTED.on(conn))
        .bind(json!(ids).to_string())
        .bind(route)
        .fetch_all(conn)
        .await?;
    Ok(found
        .into_iter()
        .map(|(id, entry)| (id, entry.map(|entry| entry.0)))
        .collect())
}
