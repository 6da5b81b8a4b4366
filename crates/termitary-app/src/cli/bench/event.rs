//! The event that is measured: a todo of the usual size, 162 bytes of JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::todos::events::{TodoCreated, TodoDeleted, TodoUpdated};

/// How many bytes of JSON one event carries.
pub(super) const BYTES: usize = 162;

/// An event that carries a number where its id is.
pub(super) fn created(number: u64) -> TodoCreated {
    TodoCreated {
        id: Uuid::from_u128(u128::from(number)).to_string(),
        title: "Water the plants".to_owned(),
        description: Some("Two pots".to_owned()),
        assignee: Some("ada".to_owned()),
        priority: Some("high".to_owned()),
        due_date: Some("2027-01-01T09:00Z".to_owned()),
    }
}

/// The number that [`created`] put in.
pub(super) fn number(event: &TodoCreated) -> Option<u64> {
    let id = Uuid::parse_str(&event.id).ok()?;
    u64::try_from(id.as_u128()).ok()
}

/// What waits for a worker that is not there.
pub(super) fn waiting() -> TodoUpdated {
    TodoUpdated {
        id: Uuid::nil().to_string(),
        title: "Water the plants".to_owned(),
        changes: serde_json::Map::new(),
    }
}

/// What the idle subscriptions wait for.
pub(super) type Never = TodoDeleted;

/// Microseconds since 1970, the same in every process of this machine.
pub(super) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_event_has_its_size_whatever_it_carries() {
        for carried in [0, 7, u64::MAX] {
            let event = created(carried);
            assert_eq!(serde_json::to_string(&event).unwrap().len(), BYTES);
            assert_eq!(number(&event), Some(carried));
        }
    }
}
