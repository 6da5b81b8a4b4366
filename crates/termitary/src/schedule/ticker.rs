//! Publishes the event of each due tick: exactly once, because the ledger
//! holds one row per (schedule, tick) and the event is inserted with it.
//! Any number of workers may try.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CatchUp, Rule, Schedule, Tick};
use crate::clock::{days, from_micros, micros, minutes};
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;
use crate::guard;
use crate::inspect::{ScheduleStatus, instant};
use crate::ledger::stored::Text;
use crate::publish::Draft;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long to rest after the database failed.
const RETRY: Duration = Duration::from_secs(1);
/// A missed tick older than this is skipped under [`CatchUp::Latest`].
const LATEST_WINDOW: Duration = days(1);

/// Records a schedule. One seen for the first time, or with another rule than
/// before, starts from now.
pub(crate) async fn declare(tx: &mut Tx, schedule: &Schedule, now_us: i64) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO termitary_schedules (name, event, cron, timezone, last_us, seen_us)
         VALUES ($1, $2, $3, $4, $5, $5)
         ON CONFLICT (name) DO UPDATE SET
            event = excluded.event, seen_us = excluded.seen_us,
            last_us = CASE WHEN cron <> excluded.cron OR timezone <> excluded.timezone
                           THEN max(last_us, excluded.last_us) ELSE last_us END,
            cron = excluded.cron, timezone = excluded.timezone",
    )
    .bind(&schedule.name)
    .bind(&schedule.event)
    .bind(&schedule.cron)
    .bind(&schedule.timezone)
    .bind(now_us)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Publishes ticks as they come due, until told to stop.
pub(crate) async fn run(db: Db, schedules: Vec<Schedule>, stop: CancellationToken) {
    if schedules.is_empty() {
        return;
    }
    let mut next = db.clock().now();
    let mut failing = false;
    loop {
        let mut rest = LOOK;
        if db.clock().now() >= next {
            match fire_due(&db, &schedules).await {
                Ok(then) => {
                    next = then;
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(error = ?error, "cannot publish ticks; trying again");
                    }
                    failing = true;
                    rest = RETRY;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Publishes every tick that is due; answers the instant of the next.
pub(crate) async fn fire_due(db: &Db, schedules: &[Schedule]) -> Result<Timestamp, Error> {
    let now = db.clock().now();
    let mut next = Timestamp::MAX;
    for schedule in schedules {
        let rule = schedule.rule().map_err(Error::invalid)?;
        if settled_until(db, &schedule.name)
            .await?
            .is_some_and(|last| has_tick(&rule, last, now))
        {
            fire(db, schedule, &rule, now).await?;
        }
        if let Some(instant) = rule.next_after(now) {
            next = next.min(instant);
        }
    }
    Ok(next)
}

fn has_tick(rule: &Rule, after: Timestamp, until: Timestamp) -> bool {
    rule.next_after(after).is_some_and(|next| next <= until)
}

async fn settled_until(db: &Db, name: &str) -> Result<Option<Timestamp>, Error> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT last_us FROM termitary_schedules WHERE name = $1")
            .bind(name)
            .fetch_optional(db.reader())
            .await?;
    Ok(last.map(from_micros))
}

/// Settles every tick of one schedule up to `now`, in one transaction.
async fn fire(db: &Db, schedule: &Schedule, rule: &Rule, now: Timestamp) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    let record: Record = sqlx::query_as(
        "SELECT last_us, paused, cron, timezone FROM termitary_schedules WHERE name = $1",
    )
    .bind(&schedule.name)
    .fetch_one(&mut *tx)
    .await?;
    if record.cron.0 != schedule.cron || record.timezone.0 != schedule.timezone {
        // Edited since this process started: its ticks are the newer's to publish.
        return tx.rollback().await;
    }
    let last = from_micros(record.last_us);
    if !record.paused {
        let ticks = due_ticks(schedule.catch_up, rule, last, now);
        for &tick in &ticks {
            publish_tick(&mut tx, db, schedule, tick).await?;
        }
        if ticks.is_empty() {
            skip_tick(&mut tx, schedule, rule, last, now).await?;
        }
    }
    sqlx::query("UPDATE termitary_schedules SET last_us = max(last_us, $2) WHERE name = $1")
        .bind(&schedule.name)
        .bind(now.as_microsecond())
        .execute(&mut *tx)
        .await?;
    fault::point!("tick.before_commit");
    tx.commit_and_wake().await?;
    fault::point!("tick.after_commit");
    Ok(())
}

/// A schedule as the ledger has it.
#[derive(sqlx::FromRow)]
struct Record {
    last_us: i64,
    paused: bool,
    cron: Text,
    timezone: Text,
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
    let skipped = sqlx::query(
        "INSERT INTO termitary_ticks (schedule, tick_us) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    )
    .bind(&schedule.name)
    .bind(missed.as_microsecond())
    .execute(&mut **tx)
    .await?;
    if skipped.rows_affected() == 1 {
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

/// A tick published within this of its instant was not missed.
const ON_TIME: Duration = minutes(1);

async fn publish_tick(
    tx: &mut Tx,
    db: &Db,
    schedule: &Schedule,
    tick: Timestamp,
) -> Result<(), Error> {
    let id = tick_id(&schedule.name, tick);
    let row = sqlx::query(
        "INSERT INTO termitary_ticks (schedule, tick_us, event) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(&schedule.name)
    .bind(tick.as_microsecond())
    .bind(id)
    .execute(&mut **tx)
    .await?;
    if row.rows_affected() == 0 {
        return Ok(()); // another worker was first
    }
    let mut draft = draft(db, schedule, tick)?;
    draft.envelope.id = id;
    crate::ledger::publish(tx, db.source(), &[draft]).await?;
    sqlx::query("UPDATE termitary_schedules SET fired_us = $2 WHERE name = $1")
        .bind(&schedule.name)
        .bind(tick.as_microsecond())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn draft(db: &Db, schedule: &Schedule, at: Timestamp) -> Result<Draft, Error> {
    let made = guard::call(|| (schedule.make)(Tick { at })).map_err(|panicked| {
        Error::invalid(format!(
            "the closure of schedule `{}` does not make an event",
            schedule.name
        ))
        .caused_by(panicked)
    })?;
    let json = made.map_err(|error| {
        Error::invalid(format!(
            "the event of schedule `{}` does not serialize",
            schedule.name
        ))
        .caused_by(error)
    })?;
    let mut draft = Draft::untyped(&schedule.event, json, db)?;
    draft.envelope.version = schedule.version;
    Ok(draft)
}

/// The same id from whichever worker publishes the tick.
fn tick_id(name: &str, tick: Timestamp) -> Uuid {
    let key = format!("{name}@{}", tick.as_microsecond());
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes());
    Uuid::new_v8(*hash.as_bytes())
}

/// Publishes the schedule's event now, beside its ticks.
pub(crate) async fn run_now(db: &Db, schedule: &Schedule) -> Result<Uuid, Error> {
    let draft = draft(db, schedule, db.clock().now())?;
    let id = draft.envelope.id;
    let mut tx = db.begin().await?;
    crate::ledger::publish(&mut tx, db.source(), &[draft]).await?;
    tx.commit_and_wake().await?;
    Ok(id)
}

/// Stops or resumes; ticks of the pause are not caught up.
pub(crate) async fn pause(tx: &mut Tx, name: &str, paused: bool) -> Result<(), Error> {
    let now_us = tx.db().clock().now_us();
    let row = sqlx::query(
        "UPDATE termitary_schedules SET paused = $2, last_us = max(last_us, $3) WHERE name = $1",
    )
    .bind(name)
    .bind(paused)
    .bind(now_us)
    .execute(&mut **tx)
    .await?;
    if row.rows_affected() == 0 {
        return Err(Error::not_found(format!("no schedule is named `{name}`")));
    }
    Ok(())
}

/// Every schedule on record.
pub(crate) async fn list(db: &Db) -> Result<Vec<ScheduleStatus>, Error> {
    let rows: Vec<(Text, Text, Text, Option<i64>, bool)> = sqlx::query_as(
        "SELECT name, cron, timezone, fired_us, paused FROM termitary_schedules ORDER BY name",
    )
    .fetch_all(db.reader())
    .await?;
    let now = db.clock().now();
    Ok(rows
        .into_iter()
        .map(
            |(Text(name), Text(cron), Text(timezone), fired_us, paused)| {
                let rule = Rule::parse(&cron, &timezone).ok().filter(|_| !paused);
                let next = rule.and_then(|rule| rule.next_after(now));
                ScheduleStatus {
                    name,
                    cron,
                    timezone,
                    next,
                    last: instant(fired_us),
                    paused,
                }
            },
        )
        .collect())
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
