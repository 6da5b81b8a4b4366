//! What the auth module publishes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use termitary::Event;
use termitary::event::{Schema, schema_of};

/// A login succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserLoggedIn {
    /// Who.
    pub user_id: String,
    /// Their address.
    pub email: String,
    /// Where from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// What they logged in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

impl Event for UserLoggedIn {
    const NAME: &'static str = "users.login";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// Somebody forgot a password, or says so. Published for every address that is
/// typed, whether it has an account or not: the difference is made where nobody
/// can see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordForgotten {
    /// The address that was typed.
    pub email: String,
}

impl Event for PasswordForgotten {
    const NAME: &'static str = "users.password-forgotten";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
