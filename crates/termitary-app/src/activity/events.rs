//! The broadcast of the activity module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use termitary::Event;
use termitary::event::{Schema, schema_of};
use uuid::Uuid;

/// The feed has a new entry. Broadcast and not stored: the feed itself is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActivityRecorded {
    /// The entry, as the feed shows it.
    pub entry: serde_json::Value,
    /// The users who may see it, besides admins.
    pub viewers: Vec<Uuid>,
}

impl Event for ActivityRecorded {
    const NAME: &'static str = "activity.recorded";

    fn schema() -> Schema {
        schema_of::<Self>()
    }
}
