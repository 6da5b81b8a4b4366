//! A todo of a list: read from the JSON array that a statement makes of its row, and
//! serialized like a [`Todo`](super::todo::Todo). Its texts are JSON already and are
//! copied unchanged.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::due::Due;
use super::todo::{Priority, Status};
use crate::schema::{Rows, instant};
use crate::sql::{Statement, statement};

/// Deserialized by position, as in [`ListItem::JSON`]; serialized by name.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
pub(super) struct ListItem<'a> {
    pub(super) id: Uuid,
    #[serde(borrow)]
    title: &'a RawValue,
    #[serde(borrow)]
    description: &'a RawValue,
    status: Status,
    owner: Uuid,
    assignee: Option<Uuid>,
    #[serde(deserialize_with = "of_rank")]
    pub(super) priority: Option<Priority>,
    #[serde(deserialize_with = "some_due")]
    pub(super) due_date: Option<Due>,
    #[serde(deserialize_with = "an_instant")]
    pub(super) created_at: Timestamp,
    #[serde(deserialize_with = "an_instant")]
    pub(super) updated_at: Timestamp,
}

impl ListItem<'_> {
    /// The expression that makes one from a row of `todos`, in the order of the fields.
    pub(super) const JSON: Statement = statement!(
        [json_array], [json_id "todos.id"], ", ", [json_text "todos.title"], ", ",
        [json_text "todos.description"], ", todos.status, ", [json_id "todos.owner_id"], ", ",
        [json_uuid "todos.assignee_id"],
        ", todos.priority, todos.due_us, todos.created_us, todos.updated_us)",
    );

    /// The title as text.
    pub(super) fn title(&self) -> String {
        // The database made the JSON from a text.
        serde_json::from_str(self.title.get()).unwrap_or_default()
    }
}

/// The todos of a JSON array. One that cannot be read fails the whole array: then they are read
/// one by one.
pub(super) fn read(json: &str) -> serde_json::Result<Rows<ListItem<'_>>> {
    if let Ok(readable) = serde_json::from_str::<Vec<_>>(json) {
        let read = readable.len();
        return Ok(Rows { readable, read });
    }
    let rows: Vec<&RawValue> = serde_json::from_str(json)?;
    Ok(Rows {
        read: rows.len(),
        readable: rows.into_iter().filter_map(read_one).collect(),
    })
}

/// The todo, or one line in the log, with the id only: the error may quote a text.
fn read_one(row: &RawValue) -> Option<ListItem<'_>> {
    let todo = serde_json::from_str(row.get());
    if todo.is_err() {
        let columns: Vec<&RawValue> = serde_json::from_str(row.get()).unwrap_or_default();
        let id = columns.first().map(|id| id.get());
        tracing::warn!(id, table = "todos", "left out a row that cannot be read");
    }
    todo.ok()
}

fn of_rank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Priority>, D::Error> {
    let rank = Option::<i64>::deserialize(from)?;
    Ok(rank.and_then(Priority::of_rank))
}

fn an_instant<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    i64::deserialize(from).map(instant)
}

fn some_due<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Due>, D::Error> {
    let micros = Option::<i64>::deserialize(from)?;
    Ok(micros.map(Due::from_microsecond))
}
