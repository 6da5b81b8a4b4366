//! Records in the ledger which entry carries an event that its process carried itself. It
//! does so a moment later, and only for events that are not finished by then: nearly none
//! while workers keep up.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::due;
use crate::broker::redis::Redis;
use crate::delivery::recorded_entry;
use crate::error::Error;
use crate::fault;
use crate::ledger::handover;
use crate::lock::Mutex;
use crate::outage::Outage;

/// The time between sending an event and recording its entry.
const AFTER: Duration = Duration::from_millis(200);

pub(crate) struct Recording {
    sent: Mutex<Vec<Sent>>,
    /// A task is about to record them.
    under_way: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    outage: Outage,
}

/// An event on its stream.
pub(crate) struct Sent {
    pub(crate) seq: i64,
    /// The number of losses when it was sent.
    pub(crate) losses: u64,
    /// The end of its lease to the relay.
    pub(crate) until_us: i64,
    pub(crate) stream: Arc<str>,
    pub(crate) id: String,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            sent: Mutex::default(),
            under_way: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            outage: Outage::of("recording which entries carry events"),
        }
    }
}

impl Recording {
    pub(crate) fn add(&self, sent: Vec<Sent>) {
        self.sent.lock().extend(sent);
    }
}

/// Records them in a moment, unless a task is about to.
pub(crate) fn soon(redis: Arc<Redis>) {
    if redis.recording.sent.lock().is_empty()
        || redis.recording.under_way.swap(true, Ordering::AcqRel)
    {
        return;
    }
    let turn = Turn(redis);
    tokio::spawn(async move {
        let redis = Arc::clone(&turn.0);
        let wait = AFTER.min(redis.config.lease_time() / 10);
        while !redis.recording.sent.lock().is_empty() {
            tokio::time::sleep(wait).await;
            now(&redis).await;
        }
        drop(turn);
        // Events sent just now still found this task.
        soon(redis);
    });
}

/// The duty to record; another task takes it if this one is dropped with its runtime.
struct Turn(Arc<Redis>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.recording.under_way.store(false, Ordering::Release);
    }
}

/// Records the entries of all events sent so far.
pub(crate) async fn now(redis: &Redis) {
    let _turn = redis.recording.turn.lock().await;
    let sent = mem::take(&mut *redis.recording.sent.lock());
    match record(redis, &sent).await {
        Ok(()) => redis.recording.outage.over(),
        Err(error) => {
            redis.recording.outage.failed(&error);
            // After its lease the reconciler sends an event again.
            let now_us = redis.now_us();
            let again = sent.into_iter().filter(|sent| now_us < sent.until_us);
            redis.recording.add(again.collect());
        }
    }
}

async fn record(redis: &Redis, sent: &[Sent]) -> Result<(), Error> {
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
        handover::record_events(&redis.db, entries, until_us).await?;
        entries = rest;
    }
    fault::point!("carry.recorded");
    Ok(())
}
