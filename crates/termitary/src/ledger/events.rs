//! Many events at once, for the relay of the redis broker.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use super::rows::{Bytes, StoredEvent, Unreadable, event_columns};
use super::sql::{Statement, statement};
use crate::db::Conn;
use crate::error::Error;
use crate::event::Envelope;

/// Events by their rows, and the rows that cannot be read.
#[derive(Default)]
pub(super) struct Events {
    pub(super) readable: HashMap<i64, Envelope>,
    pub(super) unreadable: HashMap<i64, Unreadable>,
}

impl Events {
    fn add(&mut self, event: StoredEvent) {
        let seq = event.seq;
        match event.read() {
            Ok(event) => drop(self.readable.insert(seq, event)),
            Err(why) => drop(self.unreadable.insert(seq, why)),
        }
    }
}

/// An event as one JSON array. Rows cross from the database's thread one by one, and
/// that costs more than most statements: what a hot path reads is gathered into a
/// single one (`json_group_array`).
const GATHERED: Statement = statement!(
    "SELECT ", [gathered "seq, id, name, version, source, time_us, key, traceparent, cause, data"], " FROM (
        SELECT e.seq, ", [hex "e.id"], " AS id, e.name, e.version, e.source, e.time_us, e.key, e.traceparent,
            CASE WHEN e.cause IS NOT NULL THEN ", [hex "e.cause"], " END AS cause, e.data
        FROM ", [rows], " JOIN termitary_events e ON e.seq = ", [an_int], ") g"
);

const ONE_BY_ONE: Statement = statement!(
    "SELECT ",
    [an_int],
    " AS seq, ",
    (event_columns),
    " FROM ",
    [rows],
    " LEFT JOIN termitary_events e ON e.seq = ",
    [an_int]
);

/// An event as [`GATHERED`] writes it.
#[derive(serde::Deserialize)]
struct Gathered {
    seq: i64,
    id: Uuid,
    name: String,
    version: i64,
    source: String,
    time_us: i64,
    key: Option<String>,
    traceparent: Option<String>,
    cause: Option<Uuid>,
    data: String,
}

impl From<Gathered> for StoredEvent {
    fn from(event: Gathered) -> Self {
        let text = |text: String| Some(Bytes(text.into_bytes()));
        let id = |id: Uuid| Bytes(id.as_bytes().to_vec());
        Self {
            seq: event.seq,
            id: Some(id(event.id)),
            name: text(event.name),
            version: Some(event.version),
            source: text(event.source),
            time_us: Some(event.time_us),
            key: event.key.and_then(text),
            traceparent: event.traceparent.and_then(text),
            cause: event.cause.map(id),
            data: text(event.data),
        }
    }
}

/// The events of these rows. They are gathered; where that fails, one cannot be read,
/// and they are read one by one.
pub(super) async fn events(conn: &mut Conn, seqs: &[i64]) -> Result<Events, Error> {
    let mut events = Events::default();
    if seqs.is_empty() {
        return Ok(events);
    }
    let rows: Bytes = sqlx::query_scalar(GATHERED.on(conn))
        .bind(json!(seqs).to_string())
        .fetch_one(&mut *conn)
        .await?;
    if let Ok(rows) = serde_json::from_slice::<Vec<Gathered>>(&rows.0)
        && rows.len() == seqs.len()
    {
        for row in rows {
            events.add(row.into());
        }
        return Ok(events);
    }
    let rows: Vec<StoredEvent> = sqlx::query_as(ONE_BY_ONE.on(conn))
        .bind(json!(seqs).to_string())
        .fetch_all(conn)
        .await?;
    for row in rows {
        events.add(row);
    }
    Ok(events)
}
