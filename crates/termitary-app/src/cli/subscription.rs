//! `termitary subscription`: forget one that is gone for good.

use anyhow::bail;
use serde_json::json;
use termitary::inspect::{SubscriptionStatus, WorkerStatus};

use super::args::{SubscriptionCommand, SubscriptionDropArgs};
use super::ask;
use super::nearest;
use super::open::{Missing, System, operator};
use super::out;
use crate::app;
use crate::config::{Config, Mistake, escape};

pub(super) async fn run(config: Config, command: SubscriptionCommand) -> anyhow::Result<()> {
    let SubscriptionCommand::Drop(args) = command;
    let system = System::open(&config, Missing::Refuse).await?;
    let result = forget(&system, &args).await;
    system.db.close().await;
    result
}

async fn forget(system: &System, args: &SubscriptionDropArgs) -> anyhow::Result<()> {
    let inspect = system.broker.inspect();
    let status = inspect.status().await?;
    let known = &status.subscriptions;
    let subscription = known
        .iter()
        .find(|subscription| subscription.name == args.name)
        .ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
            nearest::unknown("subscription", &args.name, &names)
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
    let unfinished = out::count(
        pending + leased + dead + parked,
        "unfinished delivery",
        "unfinished deliveries",
    );
    let what = format!("`{}` with {unfinished}", escape(&args.name));
    if !args.yes && !ask::may("drop", &what)? {
        return out::line("nothing was changed");
    }
    // What started since it was asked is not run over either.
    if args.force {
        inspect
            .force_drop_subscription(&args.name, &operator())
            .await?;
    } else {
        inspect.drop_subscription(&args.name, &operator()).await?;
    }
    if args.json {
        return out::json(&json!({ "dropped": args.name }));
    }
    out::line(&format!("{} is forgotten", args.name))
}

/// It would be there again as soon as something starts.
fn refuse_our_own(name: &str) -> Result<(), Mistake> {
    let map = app::registry().map();
    let mut ours = map.iter().flat_map(|entry| &entry.subscriptions);
    if ours.any(|ours| ours.name == *name) {
        return Err(Mistake::new(format!(
            "this program subscribes as `{name}`: it would be there again at the next start; take it out of the code first"
        )));
    }
    Ok(())
}

/// What runs it would go on, for nothing.
fn refuse_in_use(workers: &[WorkerStatus], name: &str) -> anyhow::Result<()> {
    let running = workers.iter().filter(|worker| worker.runs(name));
    let running: Vec<_> = running.map(ToString::to_string).collect();
    if running.is_empty() {
        return Ok(());
    }
    bail!(
        "{} `{}`: {}. Stop what still has it first; a worker that was killed counts as live for 20 s. --force drops it even so",
        match running.len() {
            1 => "a live worker runs".to_owned(),
            n => format!("{n} live workers run"),
        },
        escape(name),
        escape(&running.join(", "))
    );
}
