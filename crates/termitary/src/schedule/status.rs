//! Schedules as operators see them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::Rule;
use crate::clock::from_micros;
use crate::db::Db;
use crate::error::Error;
use crate::ledger::{clocks, ticks};

/// One schedule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ScheduleStatus {
    /// The durable name.
    pub name: String,
    /// The cron expression.
    pub cron: String,
    /// The IANA time zone it is evaluated in.
    pub timezone: String,
    /// The next tick whose event is not published yet; none while paused.
    pub next: Option<Timestamp>,
    /// The last tick that published an event.
    pub last: Option<Timestamp>,
    /// True if an operator paused it.
    pub paused: bool,
    /// Set if a tick is due whose event cannot be built.
    pub failing: Option<ScheduleFailure>,
    /// A clock that was ahead has settled the ticks up to this time, which is
    /// still to come for every living worker. The next worker that looks sets it
    /// back to its own time, once a tick would be missing.
    pub settled_ahead: Option<Timestamp>,
    /// The first tick that no scheduler has settled yet, if it is over.
    #[serde(skip)]
    pub(crate) unsettled: Option<Timestamp>,
}

/// Why a schedule cannot make its event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ScheduleFailure {
    /// When that was first noticed.
    pub since: Timestamp,
    /// The error, cut like every stored error.
    pub error: String,
}

/// Every schedule on record, by name.
pub(crate) async fn list(db: &Db) -> Result<Vec<ScheduleStatus>, Error> {
    let mut conn = db.read().await?;
    let rows = ticks::list(&mut conn).await?;
    let now = db.clock().now();
    let early = ticks::published_after(&mut conn, now).await?;
    drop(conn);
    let latest_us = clocks::latest(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let settled = from_micros(row.last_us);
            let wrong = row.last_us > latest_us;
            let from = if wrong { now } else { now.max(settled) };
            let rule = Rule::parse(&row.cron.0, &row.timezone.0).ok();
            let rule = rule.filter(|_| !row.paused);
            let unsettled = rule.as_ref().filter(|_| !wrong);
            let unsettled = unsettled.and_then(|rule| rule.next_after(settled));
            ScheduleStatus {
                unsettled: unsettled.filter(|tick| *tick <= now),
                next: rule.and_then(|rule| next_of(&rule, &row.name.0, from, &early)),
                name: row.name.0,
                cron: row.cron.0,
                timezone: row.timezone.0,
                last: row.fired_us.map(from_micros),
                paused: row.paused,
                failing: row.failing_us.map(|since_us| ScheduleFailure {
                    since: from_micros(since_us),
                    error: row.failure.unwrap_or_default().0,
                }),
                settled_ahead: wrong.then_some(settled),
            }
        })
        .collect())
}

/// The next tick that was not published by a clock that was ahead.
fn next_of(
    rule: &Rule,
    name: &str,
    from: Timestamp,
    early: &BTreeSet<(String, i64)>,
) -> Option<Timestamp> {
    let mut next = rule.next_after(from)?;
    while early.contains(&(name.to_owned(), next.as_microsecond())) {
        next = rule.next_after(next)?;
    }
    Some(next)
}
