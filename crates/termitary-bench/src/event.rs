//! The measured event: a todo of the usual size, 162 bytes of JSON. It has the name and
//! the fields of the application's `todos.created`.

use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use termitary::Event;
use uuid::Uuid;

/// The bytes of JSON of one event.
pub(crate) const BYTES: usize = 162;

/// The measured event.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Created {
    id: String,
    title: String,
    description: String,
    assignee: String,
    priority: String,
    due_date: String,
}

impl Event for Created {
    const NAME: &'static str = "todos.created";
}

/// The event of the backlog that no worker handles.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Updated {
    id: String,
    title: String,
    changes: serde_json::Map<String, serde_json::Value>,
}

impl Event for Updated {
    const NAME: &'static str = "todos.updated";
}

/// The event of the idle subscriptions, which is never published.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Deleted {
    id: String,
    title: String,
}

impl Event for Deleted {
    const NAME: &'static str = "todos.deleted";
}

/// An event whose id is `number`.
pub(crate) fn created(number: u64) -> Created {
    Created {
        id: Uuid::from_u128(u128::from(number)).to_string(),
        title: "Water the plants".to_owned(),
        description: "Two pots".to_owned(),
        assignee: "ada".to_owned(),
        priority: "high".to_owned(),
        due_date: "2027-01-01T09:00Z".to_owned(),
    }
}

/// The number that [`created`] put into the id.
pub(crate) fn number(event: &Created) -> Option<u64> {
    let id = Uuid::parse_str(&event.id).ok()?;
    u64::try_from(id.as_u128()).ok()
}

/// An event of the backlog.
pub(crate) fn backlog() -> Updated {
    Updated {
        id: Uuid::nil().to_string(),
        title: "Water the plants".to_owned(),
        changes: serde_json::Map::new(),
    }
}

/// Microseconds since 1970, the same in every process of this machine.
pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_event_has_its_size_with_every_number() {
        for carried in [0, 7, u64::MAX] {
            let event = created(carried);
            assert_eq!(serde_json::to_string(&event).unwrap().len(), BYTES);
            assert_eq!(number(&event), Some(carried));
        }
    }
}
