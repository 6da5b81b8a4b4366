//! Fires the due ticks of one schedule: builds their events, and publishes them in one transaction
//! with their ticks.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{CatchUp, Rule, Schedule, Tick, ahead};
use crate::clock::{days, from_micros, micros, minutes};
use crate::db::{Db, Tx};
use crate::draft::Draft;
use crate::error::Error;
use crate::excerpt::Excerpt;
use crate::fault;
use crate::guard;
use crate::ledger;
use crate::ledger::rows::Text;
use crate::ledger::ticks::{self, ScheduleRow, Settled};

/// A missed tick older than this is skipped under [`CatchUp::Latest`].
const LATEST_WINDOW: Duration = days(1);
/// A tick published within this of its instant was not missed.
const ON_TIME: Duration = minutes(1);
/// Number of tries if another process changed the row meanwhile.
const TRIES: usize = 3;

/// A tick and its event, or why it cannot be made.
type Made = (Timestamp, Result<Draft, Error>);

/// Settles every tick of one schedule up to `now`. Returns why one of its events
/// could not be made, if so: that tick, and no other, waits for another try. An
/// error is the database's.
pub(super) async fn settle(
    db: &Db,
    schedule: &Schedule,
    rule: &Rule,
    now: Timestamp,
) -> Result<Option<Error>, Error> {
    for _ in 0..TRIES {
        let Some(mut record) = ticks::read(&mut *db.read().await?, &schedule.name).await? else {
            return Ok(None);
        };
        if !schedule.has_rule_of(&record) {
            return Ok(None);
        }
        if ahead::bring_back(db, schedule, rule, &record, now).await? {
            record.last_us = now.as_microsecond();
        }
        if !has_tick(rule, record.last(), now) {
            return Ok(None);
        }
        // Outside of any transaction: user code must not hold up the writers.
        let made = make_due(db, schedule, rule, &record, now);
        let failure = first_failure(&made);
        let all_failed = made.iter().all(|(_, draft)| draft.is_err());
        let told = record.failure.as_ref().map(|Text(text)| text);
        if failure.is_some() && failure.as_ref() == told && all_failed {
            return Ok(into_failure(made)); // as before: nothing to write
        }
        if let Some(failed) = write(db, schedule, rule, now, &record, made, failure).await? {
            return Ok(failed);
        }
    }
    Ok(None)
}

fn make_due(
    db: &Db,
    schedule: &Schedule,
    rule: &Rule,
    record: &ScheduleRow,
    now: Timestamp,
) -> Vec<Made> {
    if record.paused {
        return Vec::new();
    }
    due_ticks(schedule.catch_up, rule, record.last(), now)
        .into_iter()
        .map(|tick| (tick, draft(db, schedule, tick)))
        .collect()
}

/// One transaction for all of it. `None`: another process changed the row since it
/// was read.
async fn write(
    db: &Db,
    schedule: &Schedule,
    rule: &Rule,
    now: Timestamp,
    record: &ScheduleRow,
    made: Vec<Made>,
    failure: Option<String>,
) -> Result<Option<Option<Error>>, Error> {
    let mut tx = ledger::single_writer::alone(db).await?;
    if ticks::read(&mut tx, &schedule.name).await?.as_ref() != Some(record) {
        tx.rollback().await?;
        return Ok(None);
    }
    if made.is_empty() && !record.paused {
        skip_tick(&mut tx, schedule, rule, record.last(), now).await?;
    }
    let (mut until, mut failed, mut published) = (now, None, false);
    for (tick, draft) in made {
        match draft {
            Ok(draft) => {
                publish_tick(&mut tx, db, schedule, tick, draft).await?;
                published = true;
            }
            Err(error) => {
                until = until.min(from_micros(tick.as_microsecond() - 1));
                failed.get_or_insert(error);
            }
        }
    }
    let settled = Settled {
        until,
        failure: failure.as_deref(),
        published,
    };
    let now_us = db.clock().now_us();
    ticks::settle(&mut tx, &schedule.name, &settled, now_us).await?;
    fault::point!("tick.before_commit");
    tx.commit_and_wake().await?;
    fault::point!("tick.after_commit");
    Ok(Some(failed))
}

fn first_failure(made: &[Made]) -> Option<String> {
    made.iter()
        .find_map(|(_, draft)| draft.as_ref().err())
        .map(failure_text)
}

fn into_failure(made: Vec<Made>) -> Option<Error> {
    made.into_iter().find_map(|(_, draft)| draft.err())
}

/// The error and its causes on one line, cut to the bound of every error text.
pub(super) fn failure_text(error: &Error) -> String {
    Excerpt::of_chain(error)
}

fn has_tick(rule: &Rule, after: Timestamp, until: Timestamp) -> bool {
    rule.next_after(after).is_some_and(|next| next <= until)
}

/// Notes that the latest missed tick was skipped, so that operators see it.
async fn skip_tick(
    tx: &mut Tx,
    schedule: &Schedule,
    rule: &Rule,
    last: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(missed) = rule.last_until(now).filter(|&tick| tick > last) else {
        return Ok(());
    };
    if ticks::record(tx, &schedule.name, missed, None).await? {
        tracing::warn!(schedule = %schedule.name, tick = %missed, "missed while no scheduler ran, and skipped as its catch-up policy says");
    }
    Ok(())
}

/// The ticks after `last` up to `now` that the catch-up policy keeps, in order.
fn due_ticks(catch_up: CatchUp, rule: &Rule, last: Timestamp, now: Timestamp) -> Vec<Timestamp> {
    let keep = match catch_up {
        CatchUp::Latest | CatchUp::Skip => 1,
        CatchUp::All(cap) => cap as usize,
    };
    let mut ticks = Vec::new();
    let mut at = now;
    while ticks.len() < keep {
        match rule.last_until(at) {
            Some(tick) if tick > last => {
                ticks.push(tick);
                at = from_micros(tick.as_microsecond() - 1);
            }
            _ => break,
        }
    }
    let age = |tick: Timestamp| now.as_microsecond() - tick.as_microsecond();
    match catch_up {
        CatchUp::Latest => ticks.retain(|&tick| age(tick) <= micros(LATEST_WINDOW)),
        // On time is within a few looks at the clock; later counts as missed.
        CatchUp::Skip => ticks.retain(|&tick| age(tick) <= micros(ON_TIME)),
        CatchUp::All(_) => {}
    }
    ticks.reverse();
    ticks
}

async fn publish_tick(
    tx: &mut Tx,
    db: &Db,
    schedule: &Schedule,
    tick: Timestamp,
    mut draft: Draft,
) -> Result<(), Error> {
    let id = tick_id(&schedule.name, tick);
    if !ticks::record(tx, &schedule.name, tick, Some(id)).await? {
        return Ok(()); // another worker was first
    }
    draft.envelope.id = id;
    ledger::publish(tx, db.source(), &[draft]).await?;
    ticks::fired(tx, &schedule.name, tick).await
}

/// The event of a tick, as the schedule's closure makes it.
fn draft(db: &Db, schedule: &Schedule, at: Timestamp) -> Result<Draft, Error> {
    let made = guard::call(|| (schedule.make)(Tick { at }))
        .map_err(|panicked| Error::invalid("its closure does not make one").caused_by(panicked))?;
    let json =
        made.map_err(|error| Error::invalid("its event does not serialize").caused_by(error))?;
    let mut draft = Draft::untyped(&schedule.event, json, db.as_source())?;
    draft.envelope.version = schedule.version;
    Ok(draft)
}

/// The same id from whichever worker publishes the tick.
fn tick_id(name: &str, tick: Timestamp) -> Uuid {
    let key = format!("{name}@{}", tick.as_microsecond());
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes());
    Uuid::new_v8(*hash.as_bytes())
}

/// Publishes the schedule's event now, beside its ticks; `who` goes into the audit.
pub(crate) async fn run_now(db: &Db, schedule: &Schedule, who: &str) -> Result<Uuid, Error> {
    let draft = draft(db, schedule, db.clock().now()).map_err(|error| {
        Error::invalid(format!(
            "the schedule `{}` cannot make its event: {}",
            schedule.name,
            failure_text(&error)
        ))
    })?;
    let id = draft.envelope.id;
    let mut tx = db.begin_own().await?;
    ledger::publish(&mut tx, db.source(), &[draft]).await?;
    ledger::audit(&mut tx, db.clock().now_us(), who, "run", &schedule.name, 1).await?;
    tx.commit_and_wake().await?;
    Ok(id)
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn due(catch_up: CatchUp, last: &str, now: &str) -> Vec<String> {
        let rule = Rule::parse("0 * * * *", "UTC").unwrap_or_else(|error| panic!("{error}"));
        due_ticks(catch_up, &rule, at(last), at(now))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_missed_span_catches_up_as_its_policy_says() {
        let (last, now) = ("2026-01-01T00:00:00Z", "2026-01-01T05:30:00Z");
        assert_eq!(due(CatchUp::Latest, last, now), ["2026-01-01T05:00:00Z"]);
        assert_eq!(
            due(CatchUp::All(2), last, now),
            ["2026-01-01T04:00:00Z", "2026-01-01T05:00:00Z"]
        );
        assert_eq!(due(CatchUp::All(100), last, now).len(), 5);
        assert!(due(CatchUp::Skip, last, now).is_empty());
    }

    #[test]
    fn a_tick_on_time_fires_under_every_policy() {
        for catch_up in [CatchUp::Latest, CatchUp::All(3), CatchUp::Skip] {
            let ticks = due(catch_up, "2026-01-01T00:59:59Z", "2026-01-01T01:00:00.2Z");
            assert_eq!(ticks, ["2026-01-01T01:00:00Z"], "{catch_up:?}");
        }
    }

    #[test]
    fn a_settled_tick_is_not_due_again() {
        assert!(
            due(
                CatchUp::All(9),
                "2026-01-01T05:00:00Z",
                "2026-01-01T05:30:00Z"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_ticks_event_id_is_the_same_everywhere() {
        let tick = at("2026-01-01T00:00:00Z");
        assert_eq!(tick_id("a", tick), tick_id("a", tick));
        assert_ne!(tick_id("a", tick), tick_id("b", tick));
        assert_eq!(tick_id("a", tick).get_version_num(), 8);
    }
}
