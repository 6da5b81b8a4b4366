//! What the users module publishes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use termitary::Event;
use termitary::event::{Schema, schema_of};

use crate::accounts::User;

/// A user registered, or was made by an admin or an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserCreated {
    /// Who.
    pub id: String,
    /// Their address.
    pub email: String,
    /// Their name.
    pub name: String,
}

impl Event for UserCreated {
    const NAME: &'static str = "users.created";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

impl From<&User> for UserCreated {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
            name: user.name.clone(),
        }
    }
}

/// A user was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserUpdated {
    /// Who.
    pub id: String,
    /// Their address, after the change.
    pub email: String,
    /// Each changed field and its new value. Never a secret: a new password
    /// is told as `passwordChangedAt`.
    pub changes: Map<String, Value>,
}

impl Event for UserUpdated {
    const NAME: &'static str = "users.updated";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

impl UserUpdated {
    pub(crate) fn new<'a>(
        user: &User,
        changes: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
            changes: changes
                .into_iter()
                .map(|(field, value)| (field.to_owned(), value))
                .collect(),
        }
    }
}

/// A user was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserDeleted {
    /// Who.
    pub id: String,
    /// Their last address.
    pub email: String,
}

impl Event for UserDeleted {
    const NAME: &'static str = "users.deleted";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// Somebody asked to confirm an address: the one they have, or another one that
/// they want to have. It gets a mail with a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserConfirmationRequested {
    /// Who.
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

/// An address was confirmed: mail to it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserEmailConfirmed {
    /// Whose.
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

impl From<&User> for UserEmailConfirmed {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
        }
    }
}

/// The address of an account became another one. `users.updated` tells the
/// same without the old address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserEmailChanged {
    /// Whose.
    pub id: String,
    /// The address before, which is warned.
    pub old_email: String,
    /// Whether it had been confirmed.
    pub old_email_confirmed: bool,
    /// The address now.
    pub email: String,
}

impl Event for UserEmailChanged {
    const NAME: &'static str = "users.email-changed";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// It is time to look for sessions that nobody uses any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInactiveCheck {
    /// The instant of the schedule, in ISO 8601.
    pub triggered_at: String,
}

impl Event for UserInactiveCheck {
    const NAME: &'static str = "users.inactive.check";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
