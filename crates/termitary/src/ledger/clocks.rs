//! The time on which live workers agree. A clock that was ahead once has left future instants in
//! the ledger; one that is ahead now keeps leaving them. Only the former are corrected: no single
//! clock decides.
//!
//! Living workers write their clock's time into their rows every few seconds;
//! the rows of workers that are gone are deleted.

use std::time::Duration;

use crate::clock::{micros, minutes};
use crate::db::Db;
use crate::error::Error;

/// Clocks that differ by no more agree.
const AGREE: Duration = minutes(1);

/// Returns whether an instant is ahead of ours and of every live worker's clock, so the clock that
/// wrote it was wrong. Queries the database only if it is ahead of ours.
pub(crate) async fn is_ahead(db: &Db, instant_us: i64) -> Result<bool, Error> {
    Ok(looks_ahead(db.clock().now_us(), instant_us) && instant_us > latest(db).await?)
}

/// Returns whether an instant is further ahead than our clock allows.
pub(crate) fn looks_ahead(now_us: i64, instant_us: i64) -> bool {
    instant_us > now_us.saturating_add(micros(AGREE))
}

/// An instant later than this was written by a wrong clock.
pub(crate) async fn latest(db: &Db) -> Result<i64, Error> {
    let now_us = db.clock().now_us();
    let seen: Option<i64> = sqlx::query_scalar("SELECT MAX(seen_us) FROM termitary_workers")
        .fetch_one(&mut *db.read().await?)
        .await?;
    let latest = seen.map_or(now_us, |seen| seen.max(now_us));
    Ok(latest.saturating_add(micros(AGREE)))
}

/// The time of the clock that is furthest behind: a row that is old by it is old for all.
pub(crate) async fn earliest(db: &Db) -> Result<i64, Error> {
    let now_us = db.clock().now_us();
    let seen: Option<i64> = sqlx::query_scalar("SELECT MIN(seen_us) FROM termitary_workers")
        .fetch_one(&mut *db.read().await?)
        .await?;
    Ok(seen.map_or(now_us, |seen| seen.min(now_us)))
}
