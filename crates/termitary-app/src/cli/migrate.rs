//! `termitary migrate`: brings the database to this version.

use serde_json::json;

use super::args::JsonArgs;
use super::output;
use super::system::{Access, System};
use crate::config::Config;

pub(super) async fn run(config: Config, args: &JsonArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Create).await?;
    let file = system.db.place();
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "database": file, "version": env!("CARGO_PKG_VERSION") }));
    }
    output::line(&format!(
        "{file} is at version {}",
        env!("CARGO_PKG_VERSION")
    ))
}
