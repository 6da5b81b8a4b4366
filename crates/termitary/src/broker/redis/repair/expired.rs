//! The leases on streams that are over.
//!
//! The server's clock measures how long an entry has been idle, also while this machine
//! sleeps. So entries that look old are watched from here as well.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::groups;
use crate::broker::redis::Redis;
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::{self, Stream, StreamSet};
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply;
use crate::broker::watch::Watch;
use crate::clock::forward;
use crate::delivery::{EntryAddress, WorkerId};
use crate::error::Error;

/// The most entries of one reply.
const PAGE: usize = 1_000;
/// The most by which the server's clock and ours drift apart between two looks.
const DRIFT: Duration = Duration::from_millis(50);

/// Entries of workers: those that are watched, and those whose lease is over.
pub(crate) struct Expired {
    watch: Watch<HeldEntry>,
    /// Entries whose lease is over, by subscription and stream.
    pub(crate) ripe: BTreeMap<(i64, Arc<str>), VecDeque<String>>,
}

/// An entry and the worker that holds it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct HeldEntry {
    entry: EntryAddress,
    worker: String,
}

impl Expired {
    pub(crate) fn of(lease: Duration) -> Self {
        Self {
            watch: Watch::over(lease),
            ripe: BTreeMap::new(),
        }
    }

    /// Drops everything seen so far: the connection is new.
    pub(crate) fn forget(&mut self) {
        self.watch.forget();
        self.ripe.clear();
    }
}

/// Looks once at all entries that workers hold. Returns the error of a stream that could
/// not be read.
pub(crate) async fn look(
    redis: &Redis,
    sets: &[StreamSet],
    expired: &mut Expired,
) -> Result<Option<Error>, Error> {
    let lease = redis.config.lease_time();
    let asked = forward();
    let since_last = expired.watch.since_last(asked);
    let (mut stale, mut failed) = (Vec::new(), None);
    let mut asking: Vec<_> = keys::streams(sets)
        .map(|(set, stream)| (set, stream, "-".to_owned()))
        .collect();
    while !asking.is_empty() {
        let looks = asking
            .iter()
            .map(|(set, stream, from)| commands::idle(set, stream, lease / 2, from, PAGE));
        let mut pipe: Pipeline = looks.collect();
        let replies = redis.link.shared().many(&mut pipe).await?;
        let mut next = Vec::new();
        for ((set, stream, _), reply) in asking.into_iter().zip(replies) {
            let held = match reply {
                Ok(reply) => reply::pending(reply),
                Err(error) if groups::is_gone(&error) => {
                    failed = groups::restore(redis, set).await.err().or(failed);
                    continue;
                }
                Err(error) => {
                    failed = Some(error.into());
                    continue;
                }
            };
            if held.len() == PAGE
                && let Some(last) = held.last()
            {
                next.push((set, stream, format!("({}", last.id)));
            }
            stale.extend(held.into_iter().map(|held| (set, stream, held)));
        }
        asking = next;
    }
    watch(expired, stale, asked, since_last, lease);
    Ok(failed)
}

/// Adds the entries whose lease is over to `ripe`.
fn watch(
    expired: &mut Expired,
    stale: Vec<(&StreamSet, &Stream, reply::Pending)>,
    now: Instant,
    since_last: Duration,
    lease: Duration,
) {
    let mut idle = HashMap::with_capacity(stale.len());
    let unchanged = stale.into_iter().filter_map(|(set, stream, held)| {
        let key = HeldEntry {
            entry: set.address(stream, &held.id),
            worker: held.consumer,
        };
        // Idle for less than the time since the last look: renewed in between. The next look
        // is then the first.
        let renewed = held.idle + DRIFT < since_last;
        (!renewed).then(|| {
            idle.insert(key.clone(), (set.route, held.idle));
            key
        })
    });
    let unchanged: Vec<_> = unchanged.collect();
    let ripe = &mut expired.ripe;
    expired
        .watch
        .look(now, unchanged.into_iter(), |held, stood| {
            let Some((route, idle)) = idle.get(held) else {
                return;
            };
            if *idle >= lease && stood >= lease / 2 {
                let place = (*route, held.entry.stream.clone());
                ripe.entry(place)
                    .or_default()
                    .push_back(held.entry.id.to_string());
            }
        });
}

/// Looks for pending entries that are not on their stream any more: Redis drops them and
/// names them in its reply, whatever is claimed. Returns whether there were any.
pub(crate) async fn has_lost_entries(
    redis: &Redis,
    us: &WorkerId,
    sets: &[StreamSet],
) -> Result<bool, Error> {
    let mut found = false;
    let mut asking: Vec<_> = keys::streams(sets)
        .map(|(set, stream)| (set, stream, "0-0".to_owned()))
        .collect();
    while !asking.is_empty() {
        let looks = asking
            .iter()
            .map(|(set, stream, from)| commands::drop_lost(set, stream, us, from));
        let mut pipe: Pipeline = looks.collect();
        let replies = redis.link.shared().many(&mut pipe).await?;
        let mut next = Vec::new();
        for ((set, stream, _), reply) in asking.into_iter().zip(replies) {
            // `look` reports errors of this stream.
            let Ok(reply) = reply else { continue };
            let mut parts = reply::list(reply).into_iter();
            let from = parts.next().and_then(reply::text);
            let gone = parts.nth(1).map_or(0, |ids| reply::list(ids).len());
            found |= gone > 0;
            if let Some(from) = from.filter(|from| from != "0-0") {
                next.push((set, stream, from));
            }
        }
        asking = next;
    }
    Ok(found)
}
