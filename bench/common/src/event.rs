//! The event of every system: `todos.created`, 162 bytes of JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Its name on the wire.
pub const NAME: &str = "todos.created";

/// A to-do was created.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoCreated {
    /// 36 characters, as long as a UUID: the planned time of the publish in µs
    /// and a number.
    pub id: String,
    /// The title.
    pub title: String,
    /// The description.
    pub description: String,
    /// The assignee.
    pub assignee: String,
    /// The priority.
    pub priority: String,
    /// The due date.
    pub due_date: String,
}

impl TodoCreated {
    /// Event `number`, planned to be published now.
    pub fn now(number: usize) -> Self {
        Self::planned(number, now_us())
    }

    /// Event `number`, planned to be published at `planned_us`.
    pub fn planned(number: usize, planned_us: u64) -> Self {
        Self {
            id: format!("{planned_us:016}-{number:019}"),
            title: "Write the report".into(),
            description: "For the meeting".into(),
            assignee: "ada".into(),
            priority: "high".into(),
            due_date: "2026-12-04".into(),
        }
    }

    /// Its JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Time since its planned publish.
    pub fn age(&self) -> Duration {
        let planned: u64 = self.id.get(..16).and_then(|t| t.parse().ok()).unwrap_or(0);
        Duration::from_micros(now_us().saturating_sub(planned))
    }
}

/// µs since 1970: the only clock that two processes share.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_162_bytes_of_json() {
        assert_eq!(TodoCreated::now(7).json().len(), 162);
        assert_eq!(TodoCreated::now(123_456).json().len(), 162);
    }

    #[test]
    fn an_event_knows_its_planned_time() {
        let event = TodoCreated::planned(1, now_us() - 2_000_000);
        assert!(event.age() >= Duration::from_secs(2));
    }
}
