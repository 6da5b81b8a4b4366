//! `termitary subscription`: forget one that is gone for good.

use anyhow::bail;
use serde_json::json;
use termitary::inspect::SubscriptionStatus;

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
    let known = inspect.status().await?.subscriptions;
    let subscription = known
        .iter()
        .find(|subscription| subscription.name == args.name)
        .ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
            nearest::unknown("subscription", &args.name, &names)
        })?;
    refuse_in_use(subscription)?;
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
    inspect.drop_subscription(&args.name, &operator()).await?;
    if args.json {
        return out::json(&json!({ "dropped": args.name }));
    }
    out::line(&format!("{} is forgotten", args.name))
}

/// It would be there again as soon as something starts.
fn refuse_in_use(subscription: &SubscriptionStatus) -> anyhow::Result<()> {
    let name = &subscription.name;
    let map = app::registry().map();
    if map
        .iter()
        .flat_map(|entry| &entry.subscriptions)
        .any(|ours| ours.name == *name)
    {
        return Err(Mistake::new(format!(
            "this program subscribes as `{name}`: it would be there again at the next start; take it out of the code first"
        ))
        .into());
    }
    if subscription.workers > 0 {
        bail!(
            "{} `{name}`: stop what still has it first (`termitary status` shows the workers)",
            match subscription.workers {
                1 => "a live worker runs".to_owned(),
                n => format!("{n} live workers run"),
            }
        );
    }
    Ok(())
}
