//! Resets a schedule whose ticks up to a future day were settled by a clock that was ahead:
//! otherwise it would be silent until then.

use jiff::Timestamp;

use super::{Rule, Schedule};
use crate::db::Db;
use crate::error::Error;
use crate::ledger::ticks::{self, ScheduleRow};
use crate::ledger::{audit, clocks};

/// The actor in the audit.
const WHO: &str = "scheduler";

/// Sets the record back to `now` where it is further ahead than the clocks of all
/// living workers, and the next tick would not be published. Ticks that the wrong
/// clock has published stay published: each is one event, be it too early. Returns
/// whether the record was changed.
pub(super) async fn bring_back(
    db: &Db,
    schedule: &Schedule,
    rule: &Rule,
    record: &ScheduleRow,
    now: Timestamp,
) -> Result<bool, Error> {
    if record.paused || !clocks::is_ahead(db, record.last_us).await? {
        return Ok(false);
    }
    let next = rule.next_after(now).filter(|&next| next <= record.last());
    let Some(next) = next else {
        return Ok(false);
    };
    if ticks::is_published(&mut *db.read().await?, &schedule.name, next).await? {
        return Ok(false);
    }
    let changed = reset(db, &schedule.name, record.last_us, now).await?;
    if changed {
        metrics::counter!("termitary_schedules_brought_back_total").increment(1);
        tracing::warn!(
            schedule = %schedule.name,
            settled_until = %record.last(),
            now = %now,
            next = %next,
            "a clock that was ahead had settled this schedule's ticks up to a time that is still to come: it goes on from now"
        );
    }
    Ok(changed)
}

/// Ticks to come that were skipped as missed were not missed.
async fn reset(db: &Db, name: &str, last_us: i64, now: Timestamp) -> Result<bool, Error> {
    let now_us = now.as_microsecond();
    let mut tx = db.begin_own().await?;
    if !ticks::set_back(&mut tx, name, last_us, now_us).await? {
        tx.rollback().await?;
        return Ok(false);
    }
    audit(&mut tx, now_us, WHO, "bring-back", name, 1).await?;
    tx.commit().await?;
    Ok(true)
}
