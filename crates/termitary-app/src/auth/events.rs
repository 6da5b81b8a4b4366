//! What the auth module publishes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use termitary::Event;

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
}
