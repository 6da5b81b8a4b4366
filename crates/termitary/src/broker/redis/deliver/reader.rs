//! One connection per subscription and worker, for blocking reads only; for a subscription to
//! several events also those of [`super::arrivals`].
//!
//! A read that fails, times out or is dropped may have been executed: its entries are then in our
//! own pending list. The connection is therefore dropped too, and a new one first re-reads that
//! list from its beginning. It re-reads that list too when entries were read but not admitted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::admit;
use super::arrivals::Arrivals;
use crate::broker::redis::Redis;
use crate::broker::redis::repair::{groups, loss};
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::{self, Stream, StreamSet};
use crate::broker::redis::wire::pipeline::{self, Pipeline};
use crate::broker::redis::wire::reply::{self, Raw};
use crate::delivery::{Leased, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::lock::Mutex;
use crate::task::let_others_go_first;

/// Duration of one blocking read. Servers may exceed it.
pub(super) const BLOCK: Duration = Duration::from_secs(1);
pub(super) const OVERRUN: Duration = Duration::from_secs(3);

/// By subscription and worker.
pub(crate) type Readers = Mutex<HashMap<(i64, WorkerId), Arc<ReaderSlot>>>;

/// The reader of one worker for one subscription. While one call admits what it has read,
/// the next one reads.
#[derive(Default)]
pub(crate) struct ReaderSlot {
    /// Between two reads.
    reader: tokio::sync::Mutex<Option<Reader>>,
    /// Shared by calls that admit; exclusive for a call that looks for entries in nobody's hand,
    /// because an entry that is being admitted would look so.
    admission: RwLock<()>,
    /// Something that was read has not been admitted.
    missed: AtomicBool,
}

/// Something was read; until it is admitted.
struct Unadmitted<'a> {
    slot: &'a ReaderSlot,
    over: bool,
}

impl Drop for Unadmitted<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.slot.missed.store(true, Ordering::Release);
        }
    }
}

/// A connection.
struct Reader {
    conn: MultiplexedConnection,
    arrivals: Arrivals,
    /// When it was made: see [`super::super::Link::era`].
    era: u64,
    /// The position in our own pending lists; one per stream.
    behind: Vec<Option<String>>,
    /// There was more than was taken: ask without waiting first.
    has_more: bool,
    /// The redeliveries filled their share: give them a larger one.
    redeliveries_full: bool,
    /// Which main stream is served first: each in turn.
    turn: usize,
}

/// Entries of one stream.
pub(crate) struct Batch {
    pub(crate) stream: Stream,
    pub(crate) entries: Vec<Raw>,
    /// They were given to us before: the ledger may know more by now.
    pub(crate) seen: bool,
}

/// Leases up to `max`; waits up to `wait` for the first.
pub(crate) async fn lease(
    redis: &Redis,
    set: &StreamSet,
    worker: &WorkerId,
    max: usize,
    wait: Duration,
) -> Result<Vec<Leased>, Error> {
    let deadline = Instant::now() + wait;
    let slot = redis.slot(set, worker);
    let mut repaired = false;
    loop {
        let mut place = slot.reader.lock().await;
        let missed = slot.missed.swap(false, Ordering::AcqRel);
        let era = redis.link.era();
        let mut reader = match place.take() {
            Some(reader) if !missed && reader.era == era => reader,
            _ => Reader::connect(redis, set).await?,
        };
        if reader.is_behind() {
            drop(slot.admission.write().await);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match reader.read(redis, set, worker, max.max(1), left).await {
            Ok(batches) => {
                // A call that wants it exclusively holds the slot, so there is no wait.
                let _admission = slot.admission.read().await;
                let more = reader.has_more;
                *place = Some(reader);
                drop(place);
                let mut unadmitted = Unadmitted {
                    slot: &slot,
                    over: false,
                };
                if more {
                    // The next read: the server then works meanwhile.
                    let_others_go_first().await;
                }
                if !batches.is_empty() {
                    fault::point!("lease.read");
                }
                let leased = admit::admit(redis, set, worker, batches).await?;
                unadmitted.over = true;
                if !leased.is_empty() || left.is_zero() {
                    return Ok(leased);
                }
            }
            Err(error) if groups::is_gone(&error) && !repaired => {
                repaired = true;
                if !groups::restore(redis, set).await? {
                    return Err(Error::not_found(format!(
                        "the subscription `{}` was dropped",
                        set.group
                    )));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Redis {
    fn slot(&self, set: &StreamSet, worker: &WorkerId) -> Arc<ReaderSlot> {
        let mut readers = self.readers.lock();
        Arc::clone(readers.entry((set.route, worker.clone())).or_default())
    }

    pub(crate) fn drop_readers(&self, worker: &WorkerId) {
        self.readers.lock().retain(|(_, whose), _| whose != worker);
    }
}

impl Reader {
    async fn connect(redis: &Redis, set: &StreamSet) -> Result<Self, Error> {
        let era = redis.link.era();
        let mut conn = redis.link.own(BLOCK + OVERRUN).await?;
        loss::check_server(redis, set, &mut conn).await?;
        let behind = set.streams.iter().map(|_| Some("0".to_owned())).collect();
        Ok(Self {
            conn,
            arrivals: Arrivals::connect(redis, set).await?,
            era,
            behind,
            has_more: true,
            redeliveries_full: false,
            turn: 0,
        })
    }

    /// Returns whether entries given to this worker may be in nobody's hand.
    fn is_behind(&self) -> bool {
        self.behind.iter().any(Option::is_some)
    }

    async fn read(
        &mut self,
        redis: &Redis,
        set: &StreamSet,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> RedisResult<Vec<Batch>> {
        let behind = self.catch_up(redis, set, worker, max).await?;
        if !behind.is_empty() {
            return Ok(behind);
        }
        if self.has_more || wait < Duration::from_millis(1) {
            let batches = self.poll(set, worker, max).await?;
            if !batches.is_empty() || wait.is_zero() {
                return Ok(batches);
            }
        }
        self.block(set, worker, max, wait.min(BLOCK)).await
    }

    /// Entries given to this worker that never reached it. Every stream is asked at once; those
    /// behind the first that has some are asked again.
    async fn catch_up(
        &mut self,
        redis: &Redis,
        set: &StreamSet,
        worker: &WorkerId,
        max: usize,
    ) -> RedisResult<Vec<Batch>> {
        while self.is_behind() {
            // Entries held now and no longer after the read were settled in between.
            let held = redis.leased.of(worker);
            let behind = set.streams.iter().zip(&self.behind);
            let reads = behind.filter_map(|(stream, after)| {
                Some(commands::read(set, stream, worker, max, after.as_ref()?))
            });
            let replies = reads.collect::<Pipeline>().send(&mut self.conn).await?;
            let streams = set.streams.iter().zip(&mut self.behind);
            let asked = streams.filter(|(_, after)| after.is_some());
            for ((stream, after), reply) in asked.zip(replies) {
                let mut entries = entries_of(reply?);
                *after = entries.last().map(|last| last.id.clone());
                redis
                    .leased
                    .without_settled(worker, &held, &mut entries, |raw| {
                        set.address(stream, &raw.id)
                    });
                if !entries.is_empty() {
                    return Ok(vec![Batch {
                        stream: stream.clone(),
                        entries,
                        seen: true,
                    }]);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Reads the entries that are there now, in one round trip and never more than `max` in all:
    /// COUNT limits each stream separately.
    async fn poll(
        &mut self,
        set: &StreamSet,
        worker: &WorkerId,
        max: usize,
    ) -> RedisResult<Vec<Batch>> {
        let shares = self.shares(set, max);
        let reads = shares
            .iter()
            .map(|(stream, share)| commands::read(set, stream, worker, *share, ">"));
        let replies = reads.collect::<Pipeline>().send(&mut self.conn).await?;
        let mut batches = Vec::new();
        let (mut hot, mut redeliveries_full) = (false, false);
        for ((stream, share), reply) in shares.into_iter().zip(replies) {
            let entries = entries_of(reply?);
            let full = entries.len() >= share;
            hot |= full;
            redeliveries_full |= full && keys::is_redelivery(&stream.key);
            if !entries.is_empty() {
                batches.push(Batch {
                    stream: stream.clone(),
                    entries,
                    seen: false,
                });
            }
        }
        // With one place, a full share is no sign of entries on the other streams.
        (self.has_more, self.redeliveries_full) = (
            hot,
            redeliveries_full && !(max == 1 && self.redeliveries_full),
        );
        Ok(batches)
    }

    /// The part of `max` for each stream.
    fn shares<'a>(&mut self, set: &'a StreamSet, max: usize) -> Vec<(&'a Stream, usize)> {
        let (mains, again) = (set.mains(), set.again());
        let for_again = match max {
            1 => usize::from(!self.redeliveries_full),
            _ if self.redeliveries_full => max / 2,
            _ => 1,
        };
        let mut room = max - for_again;
        let mut shares: Vec<_> = again
            .map(|stream| (stream, for_again))
            .into_iter()
            .collect();
        self.turn += 1;
        for i in 0..mains.len() {
            let share = room.div_ceil(mains.len() - i);
            room -= share;
            shares.push((&mains[(self.turn + i) % mains.len()], share));
        }
        shares.retain(|(_, share)| *share > 0);
        shares
    }

    async fn block(
        &mut self,
        set: &StreamSet,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> RedisResult<Vec<Batch>> {
        let share = (max / set.streams.len()).max(1);
        let found = match set.mains() {
            [_] => {
                let cmd = commands::read_blocking(set, worker, share, wait);
                reply::streams(pipeline::send(&mut self.conn, &cmd).await?)
            }
            _ => self.block_on_each(set, worker, share, wait).await?,
        };
        let mut room = max;
        let mut batches = Vec::new();
        self.has_more = false;
        for (key, mut entries) in found {
            let Some(i) = set.streams.iter().position(|stream| *stream.key == *key) else {
                continue;
            };
            self.has_more |= entries.len() >= share;
            if entries.len() > room {
                // More streams than slots returned entries at once: the rest is ours already and is
                // read again by the next call.
                entries.truncate(room);
                self.behind[i] = Some("0".to_owned());
            }
            room -= entries.len();
            if !entries.is_empty() {
                batches.push(Batch {
                    stream: set.streams[i].clone(),
                    entries,
                    seen: false,
                });
            }
        }
        Ok(batches)
    }

    /// Reads streams of several hash tags; waits for the first entry.
    async fn block_on_each(
        &mut self,
        set: &StreamSet,
        worker: &WorkerId,
        share: usize,
        wait: Duration,
    ) -> RedisResult<Vec<(String, Vec<Raw>)>> {
        let deadline = Instant::now() + wait;
        loop {
            // The ends first: an entry that comes after them ends the wait.
            let streams = set.streams.iter();
            let ends = streams.clone().map(|s| commands::last_entry(&s.key));
            let reads = streams.map(|s| commands::read(set, s, worker, share, ">"));
            let mut both: Pipeline = ends.chain(reads).collect();
            let mut replies = both.send(&mut self.conn).await?.into_iter();
            let mut after = Vec::with_capacity(set.streams.len());
            for end in replies.by_ref().take(set.streams.len()) {
                let last = reply::entries(end?).pop();
                after.push(last.map_or_else(|| "0-0".to_owned(), |last| last.id));
            }
            let mut found = Vec::new();
            for read in replies {
                found.extend(reply::streams(read?));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !found.is_empty() || !self.arrivals.next(set, &after, left).await? {
                return Ok(found);
            }
        }
    }
}

/// The entries in the reply to a read of one stream.
pub(crate) fn entries_of(reply: Value) -> Vec<Raw> {
    let streams = reply::streams(reply).into_iter();
    streams.flat_map(|(_, entries)| entries).collect()
}
