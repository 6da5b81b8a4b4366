//! The events of the users module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use termitary::Event;
use termitary::event::{Schema, schema_of};

/// A user registered, or an admin or an operator created them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserCreated {
    /// The user's id.
    pub id: String,
    /// The user's address.
    pub email: String,
    /// The user's name.
    pub name: String,
}

impl Event for UserCreated {
    const NAME: &'static str = "users.created";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A user was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserUpdated {
    /// The user's id.
    pub id: String,
    /// The address after the change.
    pub email: String,
    /// Each changed field and its new value. Never a secret: a new password appears as
    /// `passwordChangedAt`.
    pub changes: Map<String, Value>,
}

impl Event for UserUpdated {
    const NAME: &'static str = "users.updated";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A user was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserDeleted {
    /// The user's id.
    pub id: String,
    /// The last address.
    pub email: String,
}

impl Event for UserDeleted {
    const NAME: &'static str = "users.deleted";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// A user requested to confirm an address, the present one or a new one. The address
/// gets a mail with a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserConfirmationRequested {
    /// The user's id.
    pub id: String,
    /// The address to confirm.
    pub email: String,
}

impl Event for UserConfirmationRequested {
    const NAME: &'static str = "users.confirmation-requested";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// An address was confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserEmailConfirmed {
    /// The user's id.
    pub id: String,
    /// The address.
    pub email: String,
}

impl Event for UserEmailConfirmed {
    const NAME: &'static str = "users.email-confirmed";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// The address of an account changed. `users.updated` reports the same change without the
/// old address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserEmailChanged {
    /// The user's id.
    pub id: String,
    /// The old address, which gets a warning.
    pub old_email: String,
    /// True if the old address had been confirmed.
    pub old_email_confirmed: bool,
    /// The new address.
    pub email: String,
}

impl Event for UserEmailChanged {
    const NAME: &'static str = "users.email-changed";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// The hourly check for old sessions and other old rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInactiveCheck {
    /// The time of the schedule, in ISO 8601.
    pub triggered_at: String,
}

impl Event for UserInactiveCheck {
    const NAME: &'static str = "users.inactive.check";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
