//! Subscriptions, schedules and workers: the same on every database.

use std::time::Duration;

use jiff::Timestamp;

use super::{Finding, time};
use crate::inspect::{ScheduleStatus, Status, SubscriptionStatus, WorkerStatus};
use crate::ledger::BRIDGE;

/// A delivery that has been due for longer: worth knowing, and a risk.
const WAITING: [Duration; 2] = [Duration::from_mins(1), Duration::from_mins(10)];
/// A tick that was due for longer without an event is late.
const LATE: Duration = Duration::from_mins(2);

pub(super) fn schema(current: bool) -> Finding {
    if current {
        return Finding::ok("ledger.schema", "the ledger's tables are of this version");
    }
    Finding::risk(
        "ledger.schema",
        "the ledger's tables are of another version than this program",
        "this program cannot read subscriptions, schedules and deliveries there",
        "run the program of that version, or `termitary migrate` to bring the tables to this one",
    )
}

/// A live worker whose deliveries travel another way.
pub(super) fn mode(other: Option<&WorkerStatus>) -> Option<Finding> {
    let other = other?;
    Some(Finding::risk(
        "workers.mode",
        format!(
            "worker {other} works over `{}`, unlike the configuration here",
            other.mode
        ),
        "neither finds the deliveries of the other, and the counts here are incomplete",
        "give every process the same REDIS_URL, or none",
    ))
}

pub(super) fn examine(status: &Status, now: Timestamp) -> Vec<Finding> {
    let mut findings = workers(status);
    for subscription in &status.subscriptions {
        findings.extend(pending(subscription, !status.workers.is_empty()));
        findings.extend(letters(subscription));
    }
    for schedule in &status.schedules {
        findings.push(examine_schedule(schedule, now));
    }
    findings
}

fn workers(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    for worker in &status.workers {
        if let Some(seconds) = worker.clock_ahead_seconds {
            findings.push(Finding::risk(
                "workers.clock",
                format!("the clock of worker {worker} is ahead by {}", time(seconds)),
                "its retries and schedules run at a wrong time",
                "set that machine's clock (NTP), and restart the worker",
            ));
        }
    }
    findings.push(match status.workers.len() {
        0 => Finding::note(
            "workers.live",
            "no worker runs",
            "events wait, and schedules do not fire",
            "start `termitary worker`",
        ),
        1 => Finding::ok("workers.live", "1 worker runs"),
        many => Finding::ok("workers.live", format!("{many} workers run")),
    });
    findings
}

/// The delivery that has waited the longest, and a subscription that no worker runs.
fn pending(subscription: &SubscriptionStatus, any_worker: bool) -> Option<Finding> {
    let SubscriptionStatus { name, .. } = subscription;
    if name == BRIDGE {
        return None;
    }
    let waiting = subscription.pending + subscription.leased;
    let oldest = Duration::from_secs(subscription.oldest_pending_seconds);
    let found = format!(
        "{name}: {waiting} waiting, the oldest has been due for {}",
        time(oldest.as_secs())
    );
    if subscription.workers == 0 && (any_worker || waiting > 0) {
        return Some(silent(name, waiting));
    }
    let [note, risk] = WAITING;
    let (at_risk, advice) = (
        "work is late, and the ledger grows",
        "start more workers, raise the subscription's concurrency, or look for slow handlers in the logs",
    );
    Some(if oldest >= risk {
        Finding::risk("subscriptions.oldest", found, at_risk, advice)
    } else if oldest >= note {
        Finding::note("subscriptions.oldest", found, at_risk, advice)
    } else {
        Finding::ok("subscriptions.oldest", found)
    })
}

fn silent(name: &str, waiting: u64) -> Finding {
    let found = format!("no live worker runs {name}, for which {waiting} deliveries wait");
    let at_risk = "its deliveries wait, and their number grows with every event";
    let advice = format!(
        "start a worker that has it; if no program has it any more: `termitary subscription drop {name}`"
    );
    if waiting > 0 {
        Finding::risk("subscriptions.silent", found, at_risk, advice)
    } else {
        Finding::note("subscriptions.silent", found, at_risk, advice)
    }
}

/// Letters wait for an operator's decision.
fn letters(subscription: &SubscriptionStatus) -> Vec<Finding> {
    let SubscriptionStatus {
        name, dead, parked, ..
    } = subscription;
    let mut findings = Vec::new();
    if *dead > 0 {
        findings.push(Finding::note(
            "subscriptions.dead",
            format!("{name}: {dead} dead letters"),
            "their work is not done",
            format!("`termitary dead list --subscription {name}` shows why; replay or drop them"),
        ));
    }
    if *parked > 0 {
        findings.push(Finding::note(
            "subscriptions.parked",
            format!("{name}: {parked} parked deliveries"),
            "no code that ran here could read them",
            format!(
                "`termitary dead list --parked --subscription {name}` shows why; start the program that reads them"
            ),
        ));
    }
    findings
}

fn examine_schedule(schedule: &ScheduleStatus, now: Timestamp) -> Finding {
    let ScheduleStatus { name, .. } = schedule;
    if let Some(failing) = &schedule.failing {
        return Finding::risk(
            "schedules.failing",
            format!(
                "{name} has failed to create its event since {}: {}",
                failing.since, failing.error
            ),
            "its events are missing",
            "fix the code that makes the event; the missed tick follows",
        );
    }
    if let Some(ahead) = schedule.settled_ahead {
        return Finding::risk(
            "schedules.ahead",
            format!("{name}: a clock that was ahead settled its ticks until {ahead}"),
            "no tick fires until then, unless a worker corrects it",
            "set the clocks of all machines (NTP), and keep a worker running",
        );
    }
    if schedule.paused {
        return Finding::note(
            "schedules.paused",
            format!("{name} is paused"),
            "its ticks are skipped",
            format!("`termitary schedule resume {name}`"),
        );
    }
    if let Some(due) = schedule.unsettled
        && now.duration_since(due).unsigned_abs() > LATE
    {
        return Finding::risk(
            "schedules.late",
            format!("{name} has not fired at {due}"),
            "its events are missing",
            "start a worker that has it; a schedule that no program has any more can be paused",
        );
    }
    Finding::ok("schedules.fire", format!("{name} is on time"))
}
