//! What time it is for the workers that live. A clock that was ahead once has left
//! instants in the ledger that are still to come; one that is ahead now goes on
//! leaving them. Only the former are mended: no single clock decides.
//!
//! Living workers write their clock's time into their rows every few seconds;
//! the rows of others are deleted ([`roll`](crate::worker::roll)).

use std::time::Duration;

use crate::clock::{micros, minutes};
use crate::db::Db;
use crate::error::Error;

/// Clocks that differ by no more agree.
const AGREE: Duration = minutes(1);

/// Whether an instant is further ahead than any living worker's clock, and than
/// ours: the clock that wrote it was wrong. Asks the database only of what is
/// further ahead than ours.
pub(crate) async fn is_ahead(db: &Db, instant_us: i64) -> Result<bool, Error> {
    Ok(looks_ahead(db.clock().now_us(), instant_us) && instant_us > latest(db).await?)
}

/// Whether an instant is further ahead than our clock allows.
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

/// The time by the clock that is furthest behind: what is old by it is old for all.
pub(crate) async fn earliest(db: &Db) -> Result<i64, Error> {
    let now_us = db.clock().now_us();
    let seen: Option<i64> = sqlx::query_scalar("SELECT MIN(seen_us) FROM termitary_workers")
        .fetch_one(&mut *db.read().await?)
        .await?;
    Ok(seen.map_or(now_us, |seen| seen.min(now_us)))
}
