//! Finds expired leases on streams.
//!
//! The server's clock measures how long an entry has been idle, and it goes on while this machine
//! sleeps. Entries that look old are therefore watched from here as well.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::groups;
use crate::broker::redis::Redis;
use crate::broker::redis::wire::keys::{self, Lane, Stream};
use crate::broker::redis::wire::reply;
use crate::broker::watch::Watch;
use crate::clock::forward;
use crate::delivery::{EntryAddress, WorkerId};
use crate::error::Error;

/// Number of entries examined by one command.
const PAGE: usize = 1_000;
/// Nothing is idle for so long, in milliseconds.
const NEVER: i64 = i64::MAX;
/// Drift between the server's clock and ours that is possible between two looks.
const DRIFT: Duration = Duration::from_millis(50);

/// The watched entries of workers, and those that are ready to be taken over.
pub(crate) struct Graves {
    watch: Watch<Held>,
    /// By subscription and stream.
    pub(crate) ripe: BTreeMap<(i64, Arc<str>), VecDeque<String>>,
}

/// An entry in a worker's hand.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Held {
    entry: EntryAddress,
    worker: String,
}

impl Graves {
    pub(crate) fn of(lease: Duration) -> Self {
        Self {
            watch: Watch::over(lease),
            ripe: BTreeMap::new(),
        }
    }

    /// Another server, or the same one after an outage: earlier observations are void.
    pub(crate) fn forget(&mut self) {
        self.watch.forget();
        self.ripe.clear();
    }
}

/// Looks once at everything that workers hold; returns the errors of streams that could not be
/// read.
pub(crate) async fn look(
    redis: &Redis,
    lanes: &[Lane],
    graves: &mut Graves,
) -> Result<Option<Error>, Error> {
    let lease = redis.config.lease_time();
    let asked = forward();
    let since_last = graves.watch.since_last(asked);
    let (mut stale, mut failed) = (Vec::new(), None);
    let mut asking: Vec<_> = keys::streams(lanes)
        .map(|(lane, stream)| (lane, stream, "-".to_owned()))
        .collect();
    while !asking.is_empty() {
        let mut pipe = redis::pipe();
        for (lane, stream, from) in &asking {
            pipe.add_command(idle(lane, stream, lease / 2, from));
        }
        let answers = redis.link.shared().many(&mut pipe).await?;
        let mut next = Vec::new();
        for ((lane, stream, _), answer) in asking.into_iter().zip(answers) {
            let held = match answer {
                Ok(answer) => reply::held(answer),
                Err(error) if groups::is_gone(&error) => {
                    let made = groups::groups(redis, std::iter::once((lane, true))).await;
                    failed = made.err().or(failed);
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
                next.push((lane, stream, format!("({}", last.id)));
            }
            stale.extend(held.into_iter().map(|held| (lane, stream, held)));
        }
        asking = next;
    }
    watch(graves, stale, asked, since_last, lease);
    Ok(failed)
}

/// Records the expired entries.
fn watch(
    graves: &mut Graves,
    stale: Vec<(&Lane, &Stream, reply::Held)>,
    now: Instant,
    since_last: Duration,
    lease: Duration,
) {
    let mut idle = HashMap::with_capacity(stale.len());
    let unchanged = stale.into_iter().filter_map(|(lane, stream, held)| {
        let key = Held {
            entry: lane.address(stream, &held.id),
            worker: held.consumer,
        };
        // Less idle than the time since the last look: renewed in between. The next
        // look is then the first.
        let renewed = held.idle + DRIFT < since_last;
        (!renewed).then(|| {
            idle.insert(key.clone(), (lane.route, held.idle));
            key
        })
    });
    let unchanged: Vec<_> = unchanged.collect();
    let ripe = &mut graves.ripe;
    graves
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

/// Looks for pending entries that are no longer on their stream: Redis removes them from their
/// worker when any worker claims them, and reports it. Returns whether there were any.
pub(crate) async fn bereft(redis: &Redis, us: &WorkerId, lanes: &[Lane]) -> Result<bool, Error> {
    let mut found = false;
    let mut asking: Vec<_> = keys::streams(lanes)
        .map(|(lane, stream)| (lane, stream, "0-0".to_owned()))
        .collect();
    while !asking.is_empty() {
        let mut pipe = redis::pipe();
        for (lane, stream, from) in &asking {
            pipe.cmd("XAUTOCLAIM")
                .arg(&*stream.key)
                .arg(&*lane.group)
                .arg(&**us)
                .arg(NEVER)
                .arg(from);
        }
        let answers = redis.link.shared().many(&mut pipe).await?;
        let mut next = Vec::new();
        for ((lane, stream, _), answer) in asking.into_iter().zip(answers) {
            // The search for dead workers reports the errors of this stream.
            let Ok(answer) = answer else { continue };
            let mut parts = reply::list(answer).into_iter();
            let from = parts.next().and_then(reply::text);
            let gone = parts.nth(1).map_or(0, |ids| reply::list(ids).len());
            found |= gone > 0;
            if let Some(from) = from.filter(|from| from != "0-0") {
                next.push((lane, stream, from));
            }
        }
        asking = next;
    }
    Ok(found)
}

/// Requests the entries that have been idle for this long.
fn idle(lane: &Lane, stream: &Stream, least: Duration, from: &str) -> redis::Cmd {
    let mut cmd = redis::cmd("XPENDING");
    cmd.arg(&*stream.key)
        .arg(&*lane.group)
        .arg("IDLE")
        .arg(least.as_millis() as u64)
        .arg(from)
        .arg("+")
        .arg(PAGE);
    cmd
}
