//! `termitary schedule`: list, run now, pause, resume.

use serde_json::json;
use termitary::Registry;

use super::args::{ScheduleCommand, ScheduleNameArgs};
use super::output;
use super::status::{schedule_notes, schedule_rows};
use super::suggestions;
use super::system::{Access, System, exists, operator};
use crate::app::App;
use crate::config::{Config, Mistake};
use crate::wiring;

pub(super) async fn run(config: Config, command: ScheduleCommand) -> anyhow::Result<()> {
    match command {
        ScheduleCommand::List(args) => list(&config, args.json).await,
        ScheduleCommand::Run(args) => run_now(&config, &args).await,
        ScheduleCommand::Pause(args) => pause(&config, &args, true).await,
        ScheduleCommand::Resume(args) => pause(&config, &args, false).await,
    }
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let system = System::open(config, Access::Look).await?;
    let status = system.broker.inspect().status().await?;
    if json {
        return output::json(&status.schedules);
    }
    let heading = ["schedule", "cron", "zone", "next", "last"];
    output::table(
        &heading,
        &schedule_rows(&status),
        "no schedules yet: start `termitary worker`",
    )?;
    schedule_notes(&status)
}

async fn run_now(config: &Config, args: &ScheduleNameArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let registry = wiring::registry();
    if registry.schedule(name).is_none() {
        return Err(unknown(&registry, name).into());
    }
    let system = System::open(config, Access::Change).await?;
    let inspect = system.broker.inspect();
    let id = inspect.run_schedule(&registry, name, &operator()).await?;
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "id": id, "schedule": name }));
    }
    output::line(&id.to_string())
}

/// Pauses or resumes a schedule of the database, even if this program lacks its code.
async fn pause(config: &Config, args: &ScheduleNameArgs, paused: bool) -> anyhow::Result<()> {
    let name = &args.name;
    let registry = wiring::registry();
    let ours = registry.schedule(name).is_some();
    if !ours && !exists(config) {
        return Err(unknown(&registry, name).into());
    }
    let access = if ours { Access::Change } else { Access::Look };
    let system = System::open(config, access).await?;
    let known = system.broker.inspect().schedules().await?;
    let names: Vec<&str> = known.iter().map(|schedule| &*schedule.name).collect();
    if !names.contains(&name.as_str()) {
        return Err(suggestions::unknown("schedule", name, &names).into());
    }
    let inspect = system.broker.inspect();
    if paused {
        inspect.pause_schedule(name, &operator()).await?;
    } else {
        inspect.resume_schedule(name, &operator()).await?;
    }
    system.db.close().await;
    if args.json {
        return output::json(&json!({ "schedule": name, "paused": paused }));
    }
    output::line(&format!(
        "{name} {}",
        if paused { "is paused" } else { "runs again" }
    ))
}

fn unknown(registry: &Registry<App>, name: &str) -> Mistake {
    let map = registry.map();
    let names: Vec<&str> = map
        .iter()
        .flat_map(|entry| &entry.schedules)
        .map(|schedule| schedule.name.as_str())
        .collect();
    suggestions::unknown("schedule", name, &names)
}
