//! `termitary status`: the number of deliveries by state, schedules and workers.

use jiff::Timestamp;
use termitary::inspect::Status;

use super::args::JsonArgs;
use super::output;
use super::system::{Access, System};
use crate::config::{Config, escape};

pub(super) async fn run(config: Config, args: &JsonArgs) -> anyhow::Result<()> {
    let system = System::open(&config, Access::Look).await?;
    let status = system.broker.inspect().status().await?;
    if args.json {
        return output::json(&status);
    }
    let through = match &config.redis {
        Some(redis) => format!(", deliveries through {redis}"),
        None => String::new(),
    };
    let events = output::count(status.events, "event", "events");
    output::line(&format!("{}{through}: {events} kept\n", system.db.place()))?;
    subscriptions(&status)?;
    output::line("")?;
    schedules(&status)?;
    output::line("")?;
    workers(&status)
}

fn subscriptions(status: &Status) -> anyhow::Result<()> {
    let rows = status.subscriptions.iter().map(|s| {
        let mut row = vec![s.name.clone(), s.event.clone()];
        let numbers = [
            s.pending, s.due, s.leased, s.done, s.dead, s.parked, s.workers,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(format!("{} s", s.oldest_pending_seconds));
        row
    });
    let heading = [
        "subscription",
        "event",
        "pending",
        "due",
        "running",
        "done",
        "dead",
        "parked",
        "workers",
        "oldest due",
    ];
    output::table(
        &heading,
        &rows.collect::<Vec<_>>(),
        "no subscriptions yet: start `termitary worker`",
    )
}

fn schedules(status: &Status) -> anyhow::Result<()> {
    output::table(
        &["schedule", "cron", "zone", "next", "last"],
        &schedule_rows(status),
        "no schedules",
    )?;
    schedule_notes(status)
}

/// Prints a line for each failing schedule.
pub(super) fn schedule_notes(status: &Status) -> anyhow::Result<()> {
    for schedule in &status.schedules {
        let name = escape(&schedule.name);
        if let Some(failing) = &schedule.failing {
            output::line(&format!(
                "{name} has failed to create its event since {}: {}",
                failing.since,
                escape(&output::short(&failing.error, 200))
            ))?;
        }
        if let Some(ahead) = schedule.settled_ahead {
            output::line(&format!(
                "{name}: a clock that was ahead settled its ticks until {ahead}; a worker corrects this"
            ))?;
        }
    }
    Ok(())
}

/// One row per schedule, also for `schedule list`.
pub(super) fn schedule_rows(status: &Status) -> Vec<Vec<String>> {
    let instant = |at: Option<Timestamp>| at.map_or_else(|| "–".to_owned(), |at| at.to_string());
    let rows = status.schedules.iter().map(|s| {
        let next = if s.paused {
            "paused".to_owned()
        } else {
            instant(s.next)
        };
        vec![
            s.name.clone(),
            s.cron.clone(),
            s.timezone.clone(),
            next,
            instant(s.last),
        ]
    });
    rows.collect()
}

fn workers(status: &Status) -> anyhow::Result<()> {
    let rows = status.workers.iter().map(|w| {
        let running = format!("{} of {}", w.running, w.concurrency);
        vec![
            w.id.clone(),
            w.host.clone(),
            w.started_at.to_string(),
            running,
        ]
    });
    output::table(
        &["worker", "host", "started", "running"],
        &rows.collect::<Vec<_>>(),
        "no worker runs: events wait until `termitary worker` starts",
    )?;
    for worker in &status.workers {
        if let Some(seconds) = worker.clock_ahead_seconds {
            output::line(&format!(
                "{}: its clock is ahead by {seconds} s",
                escape(&worker.to_string())
            ))?;
        }
    }
    Ok(())
}
