//! `termitary schedule`: list, run now, pause, resume.

use serde_json::json;
use termitary::Registry;

use super::args::{ScheduleCommand, ScheduleNameArgs};
use super::nearest;
use super::open::{Missing, System, exists, operator};
use super::out;
use super::status::{schedule_notes, schedule_rows};
use crate::app::{self, App};
use crate::config::{Config, Mistake};

pub(super) async fn run(config: Config, command: ScheduleCommand) -> anyhow::Result<()> {
    match command {
        ScheduleCommand::List(args) => list(&config, args.json).await,
        ScheduleCommand::Run(args) => run_now(&config, &args).await,
        ScheduleCommand::Pause(args) => pause(&config, &args, true).await,
        ScheduleCommand::Resume(args) => pause(&config, &args, false).await,
    }
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let system = System::open(config, Missing::Refuse).await?;
    let status = system.broker.inspect().status().await?;
    if json {
        return out::json(&status.schedules);
    }
    let heading = ["schedule", "cron", "zone", "next", "last"];
    out::table(
        &heading,
        &schedule_rows(&status),
        "no schedules yet: start `termitary worker`",
    )?;
    schedule_notes(&status)
}

async fn run_now(config: &Config, args: &ScheduleNameArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let registry = app::registry();
    if registry.schedule(name).is_none() {
        return Err(unknown(&registry, name).into());
    }
    let system = System::open(config, Missing::Create).await?;
    let inspect = system.broker.inspect();
    let id = inspect.run_schedule(&registry, name, &operator()).await?;
    system.db.close().await;
    if args.json {
        return out::json(&json!({ "id": id, "schedule": name }));
    }
    out::line(&id.to_string())
}

/// Any schedule that the database knows, whether or not this program has its code.
async fn pause(config: &Config, args: &ScheduleNameArgs, paused: bool) -> anyhow::Result<()> {
    let name = &args.name;
    let registry = app::registry();
    let ours = registry.schedule(name).is_some();
    if !ours && !exists(config) {
        return Err(unknown(&registry, name).into());
    }
    let missing = if ours {
        Missing::Create
    } else {
        Missing::Refuse
    };
    let system = System::open(config, missing).await?;
    let known = system.broker.inspect().schedules().await?;
    let names: Vec<&str> = known.iter().map(|schedule| &*schedule.name).collect();
    if !names.contains(&name.as_str()) {
        return Err(nearest::unknown("schedule", name, &names).into());
    }
    let inspect = system.broker.inspect();
    if paused {
        inspect.pause_schedule(name, &operator()).await?;
    } else {
        inspect.resume_schedule(name, &operator()).await?;
    }
    system.db.close().await;
    if args.json {
        return out::json(&json!({ "schedule": name, "paused": paused }));
    }
    out::line(&format!(
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
    nearest::unknown("schedule", name, &names)
}
