//! The events of the todos module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use termitary::Event;
use termitary::event::{Schema, schema_of};

/// A todo was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoCreated {
    /// The todo's id.
    pub id: String,
    /// The title.
    pub title: String,
    /// The description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The id of the user who should do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// `low`, `medium`, `high` or `urgent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// The due date, in ISO 8601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_date: Option<String>,
}

impl Event for TodoCreated {
    const NAME: &'static str = "todos.created";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A todo was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoUpdated {
    /// The todo's id.
    pub id: String,
    /// The title after the change.
    pub title: String,
    /// Each changed field and its new value; `null` if it was cleared.
    pub changes: Map<String, Value>,
}

impl Event for TodoUpdated {
    const NAME: &'static str = "todos.updated";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A todo was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoDeleted {
    /// The todo's id.
    pub id: String,
    /// The last title.
    pub title: String,
}

impl Event for TodoDeleted {
    const NAME: &'static str = "todos.deleted";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// The regular check for overdue todos.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodosOverdueCheck {
    /// The time of the schedule, in ISO 8601.
    pub triggered_at: String,
}

impl Event for TodosOverdueCheck {
    const NAME: &'static str = "todos.overdue.check";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A todo is overdue. Published once per todo and due date, however often the check
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoOverdue {
    /// The todo's id.
    pub id: String,
    /// The title.
    pub title: String,
    /// The id of the user who should do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// The id of the owner.
    pub owner: String,
    /// The due date, in ISO 8601.
    pub due_date: String,
}

impl Event for TodoOverdue {
    const NAME: &'static str = "todos.overdue";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
