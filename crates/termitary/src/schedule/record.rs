//! Schedules as the ledger has them: one row each, shared by every worker.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Rule, Schedule};
use crate::agreed;
use crate::clock::from_micros;
use crate::db::{Conn, Db, Tx};
use crate::error::Error;
use crate::inspect::{ScheduleFailure, ScheduleStatus, instant};
use crate::ledger::stored::Text;

/// The columns of a row that a scheduler needs.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Record {
    /// Every tick up to here is settled.
    pub(super) last_us: i64,
    pub(super) paused: bool,
    cron: Text,
    timezone: Text,
    /// Why it cannot make its event, where it cannot.
    pub(super) failure: Option<Text>,
}

impl Record {
    /// Returns whether the rule is this process's: if it was edited since this process started, the
    /// newer process publishes its ticks.
    pub(super) fn is_of(&self, schedule: &Schedule) -> bool {
        self.cron.0 == schedule.cron && self.timezone.0 == schedule.timezone
    }

    pub(super) fn last(&self) -> Timestamp {
        from_micros(self.last_us)
    }
}

const READ: &str =
    "SELECT last_us, paused, cron, timezone, failure FROM termitary_schedules WHERE name = $1";

pub(super) async fn read(db: &Db, name: &str) -> Result<Option<Record>, Error> {
    Ok(sqlx::query_as(READ)
        .bind(name)
        .fetch_optional(&mut *db.read().await?)
        .await?)
}

/// The same row again, within the transaction that is to change it.
pub(super) async fn read_again(tx: &mut Tx, name: &str) -> Result<Option<Record>, Error> {
    Ok(sqlx::query_as(READ)
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?)
}

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
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Every tick up to `until` is settled. `failure`: why one after it could not be
/// made; `published`: an event was, and all is well again.
pub(super) async fn settle(
    tx: &mut Tx,
    name: &str,
    until: Timestamp,
    failure: Option<&str>,
    published: bool,
) -> Result<(), Error> {
    let now_us = tx.db().clock().now_us();
    sqlx::query(
        "UPDATE termitary_schedules SET last_us = max(last_us, $2),
            failing_us = CASE WHEN $3 IS NOT NULL THEN COALESCE(failing_us, $4) WHEN $5 THEN NULL ELSE failing_us END,
            failure = CASE WHEN $3 IS NOT NULL THEN $3 WHEN $5 THEN NULL ELSE failure END
         WHERE name = $1",
    )
    .bind(name)
    .bind(until.as_microsecond())
    .bind(failure)
    .bind(now_us)
    .bind(published)
    .execute(&mut *tx)
    .await?;
    Ok(())
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
    .execute(&mut *tx)
    .await?;
    if row.rows_affected() == 0 {
        return Err(unknown(name));
    }
    Ok(())
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::not_found(format!("no schedule is named `{name}`"))
}

/// Returns whether the event of this tick was published, even if too early.
pub(super) async fn is_published(db: &Db, name: &str, tick: Timestamp) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM termitary_ticks WHERE schedule = $1 AND tick_us = $2 AND event IS NOT NULL)",
    )
    .bind(name)
    .bind(tick.as_microsecond())
    .fetch_one(&mut *db.read().await?)
    .await?)
}

#[derive(sqlx::FromRow)]
struct Listed {
    name: Text,
    cron: Text,
    timezone: Text,
    last_us: i64,
    fired_us: Option<i64>,
    paused: bool,
    failing_us: Option<i64>,
    failure: Option<Text>,
}

/// Every schedule on record.
pub(crate) async fn list(db: &Db) -> Result<Vec<ScheduleStatus>, Error> {
    let mut conn = db.read().await?;
    let rows: Vec<Listed> = sqlx::query_as(
        "SELECT name, cron, timezone, last_us, fired_us, paused, failing_us, failure
         FROM termitary_schedules ORDER BY name",
    )
    .fetch_all(&mut *conn)
    .await?;
    let now = db.clock().now();
    let early = published_after(&mut conn, now).await?;
    drop(conn);
    let latest_us = agreed::latest(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let settled = from_micros(row.last_us);
            let wrong = row.last_us > latest_us;
            let from = if wrong { now } else { now.max(settled) };
            let rule = Rule::parse(&row.cron.0, &row.timezone.0).ok();
            let rule = rule.filter(|_| !row.paused);
            ScheduleStatus {
                next: rule.and_then(|rule| next_of(&rule, &row.name.0, from, &early)),
                name: row.name.0,
                cron: row.cron.0,
                timezone: row.timezone.0,
                last: instant(row.fired_us),
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

/// The ticks after `now` that were published already.
async fn published_after(
    conn: &mut Conn,
    now: Timestamp,
) -> Result<BTreeSet<(String, i64)>, Error> {
    let rows: Vec<(Text, i64)> = sqlx::query_as(
        "SELECT schedule, tick_us FROM termitary_ticks WHERE tick_us > $1 AND event IS NOT NULL",
    )
    .bind(now.as_microsecond())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(Text(name), at)| (name, at))
        .collect())
}
