//! Counts of the entries that wait on streams and that workers hold.
//!
//! Groups count the entries of both kinds. The ledger counts what it handed
//! over as leased, whether or not a worker has it yet: the streams know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::Value;

use crate::broker::redis::Redis;
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::{self, Stream, StreamSet, is_redelivery};
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply::{self, Group};
use crate::delivery::{Counts, Route};
use crate::error::Error;
use crate::ledger;

/// The most entries that are counted one by one, if a server does not know the lag of a
/// group.
const COUNT_LIMIT: usize = 10_000;

/// Entries that a group has not been given, and those it holds.
#[derive(Clone, Copy, Default)]
struct Seen {
    waiting: u64,
    held: u64,
    done: u64,
}

pub(crate) async fn counts(redis: &Redis, routes: &[Route]) -> Result<Vec<Counts>, Error> {
    if routes.is_empty() {
        redis.link.shared().one(&redis::cmd("PING")).await?;
        return Ok(Vec::new());
    }
    let sets: Vec<_> = routes
        .iter()
        .map(|route| redis.link.keys().stream_set(route))
        .collect();
    let handed = ledger::handover::counts(&mut *redis.db.read().await?).await?;
    let seen = look(redis, &sets).await?;
    Ok(sets
        .iter()
        .map(|set| {
            beside(
                handed.get(&set.route).copied().unwrap_or(0),
                seen[&set.route],
            )
        })
        .collect())
}

fn beside(handed: u64, seen: Seen) -> Counts {
    // Deliveries handed over that are not on a stream yet, or no more, wait too.
    let pending = seen.waiting.max(handed.saturating_sub(seen.held));
    Counts {
        pending,
        leased: seen.held,
        done: seen.done,
        handed,
    }
}

async fn look(redis: &Redis, sets: &[StreamSet]) -> Result<HashMap<i64, Seen>, Error> {
    let places: Vec<_> = keys::streams(sets).collect();
    let filled = filled(redis, &places).await?;
    let done = places
        .iter()
        .map(|(set, stream)| commands::get(&keys::done(&stream.key, &set.group)));
    let mut pipe: Pipeline = done.collect();
    let mut replies = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut seen: HashMap<i64, Seen> = sets
        .iter()
        .map(|set| (set.route, Seen::default()))
        .collect();
    for (set, stream) in places {
        let Some(done) = replies.next() else { break };
        // A missing stream has no groups.
        let (waiting, held) = match &filled[&*stream.key] {
            Some(filled) => filled.of(redis, stream, &set.group).await?,
            None => (0, 0),
        };
        let seen = seen.entry(set.route).or_default();
        seen.waiting += waiting;
        seen.held += held;
        if !is_redelivery(&stream.key) {
            seen.done += reply::int(&done?).unwrap_or(0) as u64;
        }
    }
    Ok(seen)
}

/// The entries and the groups of a stream.
struct Filled {
    groups: Vec<Group>,
    length: u64,
    last: Option<(u64, u64)>,
}

impl Filled {
    fn read(groups: Value, length: &Value, last: Value) -> Self {
        Self {
            groups: reply::groups(groups),
            length: reply::int(length).unwrap_or(0) as u64,
            last: reply::entries(last)
                .first()
                .and_then(|last| reply::id(&last.id)),
        }
    }

    /// The number of entries that a group has not been given, and of those it holds.
    async fn of(&self, redis: &Redis, stream: &Stream, name: &str) -> Result<(u64, u64), Error> {
        let Some(group) = self.groups.iter().find(|group| group.name == name) else {
            // Redis lost the group: it is made again, from the beginning.
            return Ok((count(redis, stream, "0").await?, 0));
        };
        let waiting = if self.last <= reply::id(&group.last_delivered) {
            0
        } else if let Some(lag) = group.lag {
            // Redis 7.0 goes on counting entries that were deleted or trimmed.
            lag.min(self.length)
        } else {
            count(redis, stream, &group.last_delivered).await?
        };
        Ok((waiting, group.pending))
    }
}

/// Every stream of these places once; `None` for those that do not exist.
async fn filled<'a>(
    redis: &Redis,
    places: &[(&'a StreamSet, &'a Stream)],
) -> Result<BTreeMap<&'a str, Option<Filled>>, Error> {
    let streams: BTreeSet<&str> = places.iter().map(|(_, stream)| &*stream.key).collect();
    let mut pipe = Pipeline::new();
    for stream in &streams {
        pipe.add(commands::groups(stream));
        pipe.add(commands::length(stream));
        pipe.add(commands::last_entry(stream));
    }
    let mut replies = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut filled = BTreeMap::new();
    for stream in streams {
        let (groups, length, last) = (replies.next(), replies.next(), replies.next());
        let (Some(groups), Some(length), Some(last)) = (groups, length, last) else {
            filled.insert(stream, None);
            continue;
        };
        let there = match reply::unless_absent(groups)? {
            Some(groups) => Some(Filled::read(groups, &length?, last?)),
            None => None,
        };
        filled.insert(stream, there);
    }
    Ok(filled)
}

async fn count(redis: &Redis, stream: &Stream, after: &str) -> Result<u64, Error> {
    let mut cmd = commands::range(&stream.key, &format!("({after}"), "+");
    cmd.arg("COUNT").arg(COUNT_LIMIT);
    Ok(reply::list(redis.link.shared().one(&cmd).await?).len() as u64)
}
