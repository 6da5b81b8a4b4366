//! `termitary check`: finds the waiting deliveries that this program would not handle.

use anyhow::{Context as _, anyhow};
use termitary::inspect::Readiness;

use super::args::JsonArgs;
use super::output;
use super::system::{Access, System};
use crate::config::Config;

/// The most characters of an error that are shown.
const ERROR: usize = 90;

pub(super) async fn run(config: Config, args: &JsonArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Examine).await?;
    let inspect = system.broker.inspect();
    let readiness = inspect.check(&system.registry).await;
    let readiness = readiness.context("the waiting deliveries cannot be read")?;
    system.db.close().await;
    if args.json {
        output::json(&readiness)?;
    } else {
        print(&readiness)?;
    }
    let obstacles: u64 = readiness.obstacles.iter().map(|found| found.count).sum();
    if obstacles == 0 {
        return Ok(());
    }
    Err(anyhow!(
        "{} would not be handled by this program",
        output::count(obstacles, "waiting delivery", "waiting deliveries")
    ))
}

fn print(readiness: &Readiness) -> anyhow::Result<()> {
    let rows = readiness.obstacles.iter().map(|found| {
        vec![
            found.subscription.clone(),
            found.event.clone(),
            found.reason.to_owned(),
            found.count.to_string(),
            found.example.to_string(),
            output::short(&found.error, ERROR),
        ]
    });
    let checked = output::count(readiness.checked, "waiting delivery", "waiting deliveries");
    output::table(
        &[
            "subscription",
            "event",
            "reason",
            "deliveries",
            "example",
            "error",
        ],
        &rows.collect::<Vec<_>>(),
        &format!("this program handles all of {checked}"),
    )
}
