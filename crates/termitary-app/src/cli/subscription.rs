//! `termitary subscription`: drops a subscription whose code is gone.

use anyhow::bail;
use serde_json::json;
use termitary::inspect::{SubscriptionStatus, WorkerStatus};

use super::args::{SubscriptionCommand, SubscriptionDropArgs};
use super::confirm;
use super::output;
use super::suggestions;
use super::system::{Access, System, operator};
use crate::config::{Config, Mistake, escape};
use crate::wiring;

pub(super) async fn run(config: Config, command: SubscriptionCommand) -> anyhow::Result<()> {
    let SubscriptionCommand::Drop(args) = command;
    let system = System::open(&config, Access::Look).await?;
    let result = drop_subscription(&system, &args).await;
    system.db.close().await;
    result
}

async fn drop_subscription(system: &System, args: &SubscriptionDropArgs) -> anyhow::Result<()> {
    let inspect = system.broker.inspect();
    let status = inspect.status().await?;
    let known = &status.subscriptions;
    let subscription = known
        .iter()
        .find(|subscription| subscription.name == args.name)
        .ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
            suggestions::unknown("subscription", &args.name, &names)
        })?;
    refuse_our_own(&args.name)?;
    if !args.force {
        refuse_in_use(&status.workers, &args.name)?;
    }
    let SubscriptionStatus {
        pending,
        leased,
        dead,
        parked,
        ..
    } = subscription;
    let unfinished = output::count(
        pending + leased + dead + parked,
        "unfinished delivery",
        "unfinished deliveries",
    );
    let what = format!("`{}` with {unfinished}", escape(&args.name));
    if !args.yes && !confirm::confirmed("drop", &what)? {
        return output::line("nothing was changed");
    }
    // The library checks again for workers that started meanwhile.
    if args.force {
        inspect
            .force_drop_subscription(&args.name, &operator())
            .await?;
    } else {
        inspect.drop_subscription(&args.name, &operator()).await?;
    }
    if args.json {
        return output::json(&json!({ "dropped": args.name }));
    }
    output::line(&format!("dropped {}", args.name))
}

/// Refuses a subscription of this program: the next start would register it again.
fn refuse_our_own(name: &str) -> Result<(), Mistake> {
    let map = wiring::registry().map();
    let mut ours = map.iter().flat_map(|entry| &entry.subscriptions);
    if ours.any(|ours| ours.name == *name) {
        return Err(Mistake::new(format!(
            "this program has the subscription `{name}` and would register it again at the next start: remove it from the code first"
        )));
    }
    Ok(())
}

/// Refuses a subscription that live workers run.
fn refuse_in_use(workers: &[WorkerStatus], name: &str) -> anyhow::Result<()> {
    let running = workers.iter().filter(|worker| worker.runs(name));
    let running: Vec<_> = running.map(ToString::to_string).collect();
    if running.is_empty() {
        return Ok(());
    }
    bail!(
        "{} `{}`: {}. Stop them first; a killed worker counts as live for 20 s. --force drops it anyway",
        match running.len() {
            1 => "a live worker runs".to_owned(),
            n => format!("{n} live workers run"),
        },
        escape(name),
        escape(&running.join(", "))
    );
}
