//! The todo.

use garde::Validate;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::due::Due;
use super::events::TodoCreated;

/// A todo, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Todo {
    /// UUIDv7.
    pub(super) id: Uuid,
    /// The title.
    pub(super) title: String,
    /// The description.
    pub(super) description: Option<String>,
    pub(super) status: Status,
    /// The id of the owner.
    pub(super) owner: Uuid,
    /// The id of the user who should do it.
    pub(super) assignee: Option<Uuid>,
    pub(super) priority: Option<Priority>,
    /// The due date.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) due_date: Option<Due>,
    #[schema(value_type = String, format = DateTime)]
    pub(super) created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub(super) updated_at: Timestamp,
}

/// The status of a todo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Open,
    Done,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
        }
    }
}

/// The priority of a todo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Priority {
    Low,
    Medium,
    High,
    Urgent,
}

const PRIORITIES: [Priority; 4] = [
    Priority::Low,
    Priority::Medium,
    Priority::High,
    Priority::Urgent,
];

impl Priority {
    pub(super) fn rank(self) -> i64 {
        self as i64
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    pub(super) fn of_rank(rank: i64) -> Option<Self> {
        PRIORITIES.get(usize::try_from(rank).ok()?).copied()
    }
}

impl Todo {
    /// The users who may see it, besides admins.
    pub(super) fn viewers(&self) -> Vec<Uuid> {
        let mut viewers = vec![self.owner];
        viewers.extend(self.assignee.filter(|&assignee| assignee != self.owner));
        viewers
    }

    pub(super) fn created(&self) -> TodoCreated {
        TodoCreated {
            id: self.id.to_string(),
            title: self.title.clone(),
            description: self.description.clone(),
            assignee: self.assignee.as_ref().map(Uuid::to_string),
            priority: self.priority.map(|priority| priority.as_str().to_owned()),
            due_date: self.due_date.as_ref().map(Due::to_string),
        }
    }
}

/// The fields of a new todo.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "title": "Water the plants",
    "description": "The ones on the balcony, too.",
    "priority": "high",
    "dueDate": "2030-06-01T18:00:00Z"
}))]
pub(super) struct CreateTodo {
    #[garde(custom(check_title))]
    #[schema(min_length = 1, max_length = 200)]
    pub(super) title: String,
    #[garde(inner(length(chars, max = 10_000), custom(check_lines)))]
    #[schema(max_length = 10_000)]
    pub(super) description: Option<String>,
    /// A user's id; `GET /people` finds it.
    #[garde(skip)]
    pub(super) assignee: Option<Uuid>,
    #[garde(skip)]
    pub(super) priority: Option<Priority>,
    /// ISO 8601, up to the year 9999. Without a time: the start of that day; without an offset or a
    /// zone in brackets (`2026-12-24T18:00:00[Europe/Berlin]`): UTC.
    #[garde(skip)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) due_date: Option<Due>,
}

/// The changes of a todo. Fields that are left out stay; `null` clears one.
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three different wishes"
)]
#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "status": "done" }))]
pub(super) struct ChangeTodo {
    #[garde(inner(custom(check_title)))]
    #[serde(default, deserialize_with = "crate::http::not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    pub(super) title: Option<String>,
    #[garde(inner(inner(length(chars, max = 10_000), custom(check_lines))))]
    #[serde(default, deserialize_with = "crate::http::nullable")]
    #[schema(value_type = Option<String>, max_length = 10_000)]
    pub(super) description: Option<Option<String>>,
    #[garde(skip)]
    #[serde(default, deserialize_with = "crate::http::not_null")]
    #[schema(nullable = false)]
    pub(super) status: Option<Status>,
    /// A user's id; `GET /people` finds it.
    #[garde(skip)]
    #[serde(default, deserialize_with = "crate::http::nullable")]
    #[schema(value_type = Option<Uuid>)]
    pub(super) assignee: Option<Option<Uuid>>,
    #[garde(skip)]
    #[serde(default, deserialize_with = "crate::http::nullable")]
    #[schema(value_type = Option<Priority>)]
    pub(super) priority: Option<Option<Priority>>,
    /// ISO 8601, up to the year 9999. Without a time: the start of that day; without an offset or a
    /// zone in brackets (`2026-12-24T18:00:00[Europe/Berlin]`): UTC.
    #[garde(skip)]
    #[serde(default, deserialize_with = "crate::http::nullable")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) due_date: Option<Option<Due>>,
}

/// Text of several lines: no control characters but tabs and line breaks.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
pub(super) fn check_lines(text: &str, (): &()) -> garde::Result {
    let unwanted = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if text.chars().any(unwanted) {
        return Err(garde::Error::new(
            "must not have control characters, except tabs and line breaks",
        ));
    }
    Ok(())
}

/// A title is one line.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
fn check_title(title: &str, (): &()) -> garde::Result {
    if title.trim().is_empty() || title.chars().count() > 200 {
        return Err(garde::Error::new("must have 1 to 200 characters"));
    }
    if title.chars().any(char::is_control) {
        return Err(garde::Error::new("must not have control characters"));
    }
    Ok(())
}
