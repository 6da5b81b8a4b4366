//! `termitary dead`: dead letters and parked deliveries.

use serde_json::json;
use termitary::inspect::{Inspect, Letter, LetterFilter, LetterState};
use uuid::Uuid;

use super::args::{DeadCommand, DeadFilter, DeadListArgs, DeadResolveArgs, DeadShowArgs};
use super::output;
use super::system::{Access, System, operator};
use super::{confirm, suggestions};
use crate::config::{Config, Mistake, escape};

/// The name under which unreadable foreign input is parked; only then it is listed.
const BRIDGE: &str = "bridge.in";

pub(super) async fn run(config: Config, command: DeadCommand) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Letters).await?;
    let inspect = system.broker.inspect();
    let result = match command {
        DeadCommand::List(args) => list(&inspect, args).await,
        DeadCommand::Show(args) => show(&inspect, args).await,
        DeadCommand::Replay(args) => resolve(&inspect, args, Act::Replay).await,
        DeadCommand::Drop(args) => resolve(&inspect, args, Act::Drop).await,
    };
    system.db.close().await;
    result
}

impl DeadFilter {
    fn is_empty(&self) -> bool {
        self.subscription.is_none() && self.event.is_none() && !self.parked
    }

    fn to_filter(&self) -> Result<LetterFilter, Mistake> {
        Ok(LetterFilter {
            event: self.event.as_deref().map(event_id).transpose()?,
            subscription: self.subscription.clone(),
            state: self.parked.then_some(LetterState::Parked),
        })
    }
}

/// The filter, after a check that its subscription exists.
async fn filter(inspect: &Inspect, asked: &DeadFilter) -> anyhow::Result<LetterFilter> {
    let filter = asked.to_filter()?;
    let Some(name) = filter
        .subscription
        .as_deref()
        .filter(|name| *name != BRIDGE)
    else {
        return Ok(filter);
    };
    let known = inspect.status().await?.subscriptions;
    if known.iter().any(|known| known.name == name) {
        return Ok(filter);
    }
    let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
    Err(suggestions::unknown("subscription", name, &names).into())
}

fn event_id(text: &str) -> Result<Uuid, Mistake> {
    text.parse().map_err(|_| {
        Mistake::new(format!(
            "`{}` is not the id of an event: `termitary dead list` shows the ids, such as 019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11",
            escape(text)
        ))
    })
}

fn none_of(event: Uuid) -> Mistake {
    Mistake::new(format!(
        "no delivery of event {event} is dead or parked: `termitary dead list` shows those that are"
    ))
}

async fn list(inspect: &Inspect, args: DeadListArgs) -> anyhow::Result<()> {
    let filter = filter(inspect, &args.filter).await?;
    let letters = inspect.letters(&filter, args.limit).await?;
    if args.json {
        return output::json(&letters);
    }
    let rows = letters.iter().map(|letter| {
        vec![
            letter.event.id.to_string(),
            letter.event.name.clone(),
            letter.subscription.clone(),
            state(letter).to_owned(),
            letter.reason.clone(),
            letter.attempts.to_string(),
            letter.at.to_string(),
            output::short(&letter.error, 60),
        ]
    });
    let heading = [
        "event id",
        "event",
        "subscription",
        "state",
        "reason",
        "attempts",
        "since",
        "error",
    ];
    output::table(
        &heading,
        &rows.collect::<Vec<_>>(),
        "no delivery is dead or parked",
    )
}

fn state(letter: &Letter) -> &'static str {
    match letter.state {
        LetterState::Dead => "dead",
        LetterState::Parked => "parked",
    }
}

async fn show(inspect: &Inspect, args: DeadShowArgs) -> anyhow::Result<()> {
    let id = event_id(&args.id)?;
    let letters = inspect.letters_of(id).await?;
    let first = letters.first().ok_or_else(|| none_of(id))?;
    if args.json {
        return output::json(&letters);
    }
    let event = &first.event;
    output::line(&format!(
        "event      {}\nname       {}",
        event.id,
        escape(&event.name)
    ))?;
    output::line(&format!(
        "published  {} by {}",
        event.time,
        escape(&event.source)
    ))?;
    for letter in &letters {
        output::line(&format!(
            "\n{} is {} ({}) since {}, after {} and {}",
            escape(&letter.subscription),
            state(letter),
            escape(&letter.reason),
            letter.at,
            output::count(
                u64::from(letter.attempts),
                "failed attempt",
                "failed attempts"
            ),
            output::count(u64::from(letter.crashes), "crash", "crashes"),
        ))?;
        output::line(&format!("  {}", escape(&letter.error)))?;
    }
    let pretty = output::pretty(event.data.get());
    output::line(&format!(
        "\npayload\n{}",
        pretty.lines().map(escape).collect::<Vec<_>>().join("\n")
    ))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Replay,
    Drop,
}

impl Act {
    fn word(self) -> &'static str {
        if self == Self::Replay {
            "replay"
        } else {
            "drop"
        }
    }
}

async fn resolve(inspect: &Inspect, args: DeadResolveArgs, act: Act) -> anyhow::Result<()> {
    if !args.all && args.filter.is_empty() {
        return Err(Mistake::new(format!(
            "{} which? Add --event ID, --subscription NAME, --parked or --all",
            act.word()
        ))
        .into());
    }
    let filter = filter(inspect, &args.filter).await?;
    let count = count(inspect, &filter).await?;
    if let (0, Some(id)) = (count, filter.event) {
        return Err(none_of(id).into());
    }
    let what = output::count(count, "delivery", "deliveries");
    if count > 0 && !args.yes && !confirm::confirmed(act.word(), &what)? {
        return output::line("nothing was changed");
    }
    let done = match act {
        Act::Replay => inspect.replay(&filter, &operator()).await?,
        Act::Drop => inspect.drop_letters(&filter, &operator()).await?,
    };
    let past = if act == Act::Replay {
        "replayed"
    } else {
        "dropped"
    };
    if args.json {
        return output::json(&json!({ past: done }));
    }
    output::line(&format!(
        "{} {past}",
        output::count(done, "delivery", "deliveries")
    ))
}

/// The number of matching letters. Without an event id it comes from the status, which
/// does not read their payloads.
async fn count(inspect: &Inspect, filter: &LetterFilter) -> anyhow::Result<u64> {
    if filter.event.is_some() {
        return Ok(inspect.letters(filter, u32::MAX).await?.len() as u64);
    }
    let status = inspect.status().await?;
    let matching = status.subscriptions.iter().filter(|s| {
        filter
            .subscription
            .as_ref()
            .is_none_or(|name| *name == s.name)
    });
    Ok(matching
        .map(|s| {
            if filter.state.is_some() {
                s.parked
            } else {
                s.dead + s.parked
            }
        })
        .sum())
}
