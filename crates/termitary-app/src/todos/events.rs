//! What the todos module publishes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use termitary::Event;
use termitary::event::{Schema, schema_of};

/// A todo was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoCreated {
    /// Which.
    pub id: String,
    /// In a few words.
    pub title: String,
    /// In more words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The id of the user who should do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// `low`, `medium`, `high` or `urgent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// When it should be done, in ISO 8601.
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
    /// Which.
    pub id: String,
    /// Its title, after the change.
    pub title: String,
    /// Each changed field and its new value; `null` where it was cleared.
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
    /// Which.
    pub id: String,
    /// Its last title.
    pub title: String,
}

impl Event for TodoDeleted {
    const NAME: &'static str = "todos.deleted";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// It is time to look for todos that are overdue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodosOverdueCheck {
    /// The instant of the schedule, in ISO 8601.
    pub triggered_at: String,
}

impl Event for TodosOverdueCheck {
    const NAME: &'static str = "todos.overdue.check";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A todo was found overdue: once per todo and due date, however often the
/// check runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TodoOverdue {
    /// Which.
    pub id: String,
    /// Its title.
    pub title: String,
    /// The id of the user who should do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// The id of the user whose todo it is.
    pub owner: String,
    /// When it should have been done, in ISO 8601.
    pub due_date: String,
}

impl Event for TodoOverdue {
    const NAME: &'static str = "todos.overdue";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
