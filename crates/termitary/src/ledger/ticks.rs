//! Schedules and their ticks: one row for each schedule, shared by every worker, and one
//! for each tick, whose key makes it exactly one.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::rows::Text;
use crate::clock::from_micros;
use crate::db::Conn;
use crate::error::Error;

/// A schedule as a program declares it.
pub(crate) struct DeclaredSchedule {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) cron: String,
    pub(crate) timezone: String,
}

/// The columns of a schedule that a scheduler needs.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct ScheduleRow {
    /// Every tick up to here is settled.
    pub(crate) last_us: i64,
    pub(crate) paused: bool,
    pub(crate) cron: Text,
    pub(crate) timezone: Text,
    /// Why its event cannot be made, if it cannot.
    pub(crate) failure: Option<Text>,
}

impl ScheduleRow {
    pub(crate) fn last(&self) -> Timestamp {
        from_micros(self.last_us)
    }
}

/// The row of a schedule.
pub(crate) async fn read(conn: &mut Conn, name: &str) -> Result<Option<ScheduleRow>, Error> {
    Ok(sqlx::query_as(
        "SELECT last_us, paused, cron, timezone, failure FROM termitary_schedules WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?)
}

/// Records a schedule. A new one, or one whose rule changed, starts from now.
pub(crate) async fn declare(
    conn: &mut Conn,
    schedule: &DeclaredSchedule,
    now_us: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO termitary_schedules AS s (name, event, cron, timezone, last_us, seen_us)
         VALUES ($1, $2, $3, $4, $5, $5)
         ON CONFLICT (name) DO UPDATE SET
            event = excluded.event, seen_us = excluded.seen_us,
            last_us = CASE WHEN (s.cron <> excluded.cron OR s.timezone <> excluded.timezone)
                            AND s.last_us < excluded.last_us
                           THEN excluded.last_us ELSE s.last_us END,
            cron = excluded.cron, timezone = excluded.timezone",
    )
    .bind(&schedule.name)
    .bind(&schedule.event)
    .bind(&schedule.cron)
    .bind(&schedule.timezone)
    .bind(now_us)
    .execute(conn)
    .await?;
    Ok(())
}

/// The outcome of a schedule's ticks up to `until`.
pub(crate) struct Settled<'a> {
    pub(crate) until: Timestamp,
    /// Why the event of a later tick could not be made.
    pub(crate) failure: Option<&'a str>,
    /// An event was published, which ends an earlier failure.
    pub(crate) published: bool,
}

/// Settles the ticks of a schedule.
pub(crate) async fn settle(
    conn: &mut Conn,
    name: &str,
    settled: &Settled<'_>,
    now_us: i64,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE termitary_schedules SET last_us = CASE WHEN last_us < $2 THEN $2 ELSE last_us END,
            failing_us = CASE WHEN $3 IS NOT NULL THEN COALESCE(failing_us, $4) WHEN $5 THEN NULL ELSE failing_us END,
            failure = CASE WHEN $3 IS NOT NULL THEN $3 WHEN $5 THEN NULL ELSE failure END
         WHERE name = $1",
    )
    .bind(name)
    .bind(settled.until.as_microsecond())
    .bind(settled.failure)
    .bind(now_us)
    .bind(settled.published)
    .execute(conn)
    .await?;
    Ok(())
}

/// Stops or resumes a schedule. Ticks of the pause are not caught up.
///
/// # Errors
///
/// `is_not_found()` if there is no schedule of this name.
pub(crate) async fn pause(
    conn: &mut Conn,
    name: &str,
    paused: bool,
    now_us: i64,
) -> Result<(), Error> {
    let row = sqlx::query(
        "UPDATE termitary_schedules SET paused = $2, last_us = CASE WHEN last_us < $3 THEN $3 ELSE last_us END WHERE name = $1",
    )
    .bind(name)
    .bind(paused)
    .bind(now_us)
    .execute(conn)
    .await?;
    if row.rows_affected() == 0 {
        return Err(unknown(name));
    }
    Ok(())
}

/// The error for a schedule that does not exist.
pub(crate) fn unknown(name: &str) -> Error {
    Error::not_found(format!("no schedule is named `{name}`"))
}

/// Sets a schedule back from `last_us` to `now_us`, so that later ticks that were
/// skipped come due again. Returns `false` if the row changed in the meantime.
pub(crate) async fn set_back(
    conn: &mut Conn,
    name: &str,
    last_us: i64,
    now_us: i64,
) -> Result<bool, Error> {
    let set =
        sqlx::query("UPDATE termitary_schedules SET last_us = $3 WHERE name = $1 AND last_us = $2")
            .bind(name)
            .bind(last_us)
            .bind(now_us)
            .execute(&mut *conn)
            .await?;
    if set.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "DELETE FROM termitary_ticks WHERE schedule = $1 AND tick_us > $2 AND event IS NULL",
    )
    .bind(name)
    .bind(now_us)
    .execute(conn)
    .await?;
    Ok(true)
}

/// Records a tick with its event, or as skipped. Returns `false` if it was recorded
/// before.
pub(crate) async fn record(
    conn: &mut Conn,
    name: &str,
    tick: Timestamp,
    event: Option<Uuid>,
) -> Result<bool, Error> {
    let row = sqlx::query(
        "INSERT INTO termitary_ticks (schedule, tick_us, event) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(name)
    .bind(tick.as_microsecond())
    .bind(event)
    .execute(conn)
    .await?;
    Ok(row.rows_affected() == 1)
}

/// Notes the last tick of a schedule that published an event.
pub(crate) async fn fired(conn: &mut Conn, name: &str, tick: Timestamp) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_schedules SET fired_us = $2 WHERE name = $1")
        .bind(name)
        .bind(tick.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}

/// Returns whether the event of this tick was published, be it too early.
pub(crate) async fn is_published(
    conn: &mut Conn,
    name: &str,
    tick: Timestamp,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM termitary_ticks WHERE schedule = $1 AND tick_us = $2 AND event IS NOT NULL)",
    )
    .bind(name)
    .bind(tick.as_microsecond())
    .fetch_one(conn)
    .await?)
}

/// The ticks after `now` that were published already.
pub(crate) async fn published_after(
    conn: &mut Conn,
    now: Timestamp,
) -> Result<BTreeSet<(String, i64)>, Error> {
    let rows: Vec<(Text, i64)> = sqlx::query_as(
        "SELECT schedule, tick_us FROM termitary_ticks WHERE tick_us > $1 AND event IS NOT NULL",
    )
    .bind(now.as_microsecond())
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|(Text(name), at)| (name, at));
    Ok(rows.collect())
}

/// A schedule as operators see it.
#[derive(sqlx::FromRow)]
pub(crate) struct ListedSchedule {
    pub(crate) name: Text,
    pub(crate) cron: Text,
    pub(crate) timezone: Text,
    pub(crate) last_us: i64,
    pub(crate) fired_us: Option<i64>,
    pub(crate) paused: bool,
    pub(crate) failing_us: Option<i64>,
    pub(crate) failure: Option<Text>,
}

/// Every schedule on record, by name.
pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<ListedSchedule>, Error> {
    Ok(sqlx::query_as(
        "SELECT name, cron, timezone, last_us, fired_us, paused, failing_us, failure
         FROM termitary_schedules ORDER BY name",
    )
    .fetch_all(conn)
    .await?)
}

/// Deletes the ticks before `tick_us`.
pub(super) async fn delete_before(conn: &mut Conn, tick_us: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM termitary_ticks WHERE tick_us < $1")
        .bind(tick_us)
        .execute(conn)
        .await?;
    Ok(())
}
