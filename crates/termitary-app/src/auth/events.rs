//! The events of the auth module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use termitary::Event;
use termitary::event::{Schema, schema_of};

/// A login succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserLoggedIn {
    /// The user's id.
    pub user_id: String,
    /// The user's address.
    pub email: String,
    /// The IP address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// The `User-Agent` of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

impl Event for UserLoggedIn {
    const NAME: &'static str = "users.login";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}

/// Somebody requested a new password. Published for every typed address, whether it has
/// an account or not, so that the response shows no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordForgotten {
    /// The typed address.
    pub email: String,
}

impl Event for PasswordForgotten {
    const NAME: &'static str = "users.password-forgotten";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
