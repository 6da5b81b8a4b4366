//! Which entries carry what was carried: noted a moment after it was sent, and
//! only of what is not finished by then, which is nearly nothing where workers
//! keep up.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::due;
use crate::broker::redis::Redis;
use crate::delivery::recorded_entry;
use crate::error::Error;
use crate::fault;
use crate::ledger::handover;
use crate::outage::Outage;

/// How long what is on its stream may take before that is noted.
const AFTER: Duration = Duration::from_millis(200);

pub(crate) struct Noting {
    sent: Mutex<Vec<Sent>>,
    /// Somebody will note it.
    under_way: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    outage: Outage,
}

/// An event on its stream.
pub(crate) struct Sent {
    pub(crate) seq: i64,
    /// After so many losses.
    pub(crate) losses: u64,
    /// Until when its deliveries are leased to the relay.
    pub(crate) until_us: i64,
    pub(crate) stream: Arc<str>,
    pub(crate) id: String,
}

impl Default for Noting {
    fn default() -> Self {
        Self {
            sent: Mutex::default(),
            under_way: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            outage: Outage::of("noting which entries carry what"),
        }
    }
}

impl Noting {
    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        // Every change is whole before anything can panic.
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, sent: Vec<Sent>) {
        self.sent().extend(sent);
    }
}

/// Notes it in a moment, if nobody else is about to.
pub(crate) fn soon(redis: Arc<Redis>) {
    if redis.noting.sent().is_empty() || redis.noting.under_way.swap(true, Ordering::AcqRel) {
        return;
    }
    let turn = Turn(redis);
    tokio::spawn(async move {
        let redis = Arc::clone(&turn.0);
        let wait = AFTER.min(redis.config.lease_time() / 10);
        while !redis.noting.sent().is_empty() {
            tokio::time::sleep(wait).await;
            now(&redis).await;
        }
        drop(turn);
        // What was sent just now found somebody about to note it.
        soon(redis);
    });
}

/// Dropped half-way, with its runtime, somebody else has to.
struct Turn(Arc<Redis>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.noting.under_way.store(false, Ordering::Release);
    }
}

/// Notes what was sent so far.
pub(crate) async fn now(redis: &Redis) {
    let _turn = redis.noting.turn.lock().await;
    let sent = mem::take(&mut *redis.noting.sent());
    match note(redis, &sent).await {
        Ok(()) => redis.noting.outage.over(),
        Err(error) => {
            redis.noting.outage.failed(&error);
            // Beyond that the reconciler sends them again.
            let now_us = redis.now_us();
            let again = sent.into_iter().filter(|sent| now_us < sent.until_us);
            redis.noting.add(again.collect());
        }
    }
}

async fn note(redis: &Redis, sent: &[Sent]) -> Result<(), Error> {
    let untils = sent.iter().map(|sent| sent.until_us);
    let (Some(first), Some(last)) = (untils.clone().min(), untils.max()) else {
        return Ok(());
    };
    let unfinished = {
        let mut conn = redis.db.read().await?;
        handover::leased_between(&mut conn, first, last).await?
    };
    let losses = redis.losses.number();
    let trusted = sent.iter().all(|sent| sent.losses == losses);
    let until_us = trusted.then(|| redis.trusted_until_us());
    let mut entries: Vec<_> = sent
        .iter()
        .filter(|sent| unfinished.contains(&sent.seq))
        .map(|sent| (sent.seq, recorded_entry(&sent.stream, &sent.id)))
        .collect();
    while !entries.is_empty() {
        let rest = entries.split_off(entries.len().min(due::CHUNK));
        redis
            .db
            .write(move |conn| handover::record_events(conn, &entries, until_us))
            .await?;
        entries = rest;
    }
    fault::point!("carry.noted");
    Ok(())
}
