//! `termitary migrate`: the database at this version.

use serde_json::json;

use super::args::JsonArgs;
use super::open::{Missing, System};
use super::out;
use crate::config::Config;

pub(super) async fn run(config: Config, args: &JsonArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Missing::Create).await?;
    let file = system.db.path().display().to_string();
    system.db.close().await;
    if args.json {
        return out::json(&json!({ "database": file, "version": env!("CARGO_PKG_VERSION") }));
    }
    out::line(&format!(
        "{file} is at version {}",
        env!("CARGO_PKG_VERSION")
    ))
}
