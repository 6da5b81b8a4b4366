//! What waits on streams and what workers hold.
//!
//! Groups count the entries of both kinds. The ledger counts what it handed
//! over as leased, whether or not a worker has it yet: the streams know.

use std::collections::HashMap;

use redis::{RedisResult, Value};

use super::keys::{self, Lane, Stream};
use super::reply::{self, Group};
use super::{Redis, keys::is_targeted};
use crate::broker::{Counts, Route};
use crate::error::Error;
use crate::ledger;

/// Where a server cannot tell how far a group is behind, entries are counted,
/// up to this many.
const COUNT_LIMIT: usize = 10_000;

/// Entries that a group has not been given, and those it holds.
#[derive(Clone, Copy, Default)]
struct Seen {
    waiting: u64,
    held: u64,
    done: u64,
}

pub(super) async fn counts(redis: &Redis, routes: &[Route]) -> Result<Vec<Counts>, Error> {
    if routes.is_empty() {
        redis.link.shared().one(&redis::cmd("PING")).await?;
        return Ok(Vec::new());
    }
    let lanes: Vec<_> = routes
        .iter()
        .map(|route| redis.link.keys().lane(route))
        .collect();
    let handed = ledger::relay::handed(&mut *redis.db.reader().acquire().await?).await?;
    let seen = look(redis, &lanes).await?;
    Ok(lanes
        .iter()
        .map(|lane| {
            beside(
                handed.get(&lane.route).copied().unwrap_or(0),
                seen[&lane.route],
            )
        })
        .collect())
}

fn beside(handed: u64, seen: Seen) -> Counts {
    // What was handed over and is not on a stream yet, or no more, waits too.
    let pending = seen.waiting.max(handed.saturating_sub(seen.held));
    Counts {
        pending,
        leased: seen.held,
        done: seen.done,
        handed,
    }
}

async fn look(redis: &Redis, lanes: &[Lane]) -> Result<HashMap<i64, Seen>, Error> {
    let places: Vec<(&Lane, &Stream)> = lanes
        .iter()
        .flat_map(|lane| lane.streams.iter().map(move |stream| (lane, stream)))
        .collect();
    let mut pipe = redis::pipe();
    for (lane, stream) in &places {
        pipe.cmd("XINFO").arg("GROUPS").arg(&*stream.key);
        pipe.cmd("GET").arg(keys::done(&stream.key, &lane.group));
    }
    let mut answers = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut seen: HashMap<i64, Seen> = lanes
        .iter()
        .map(|lane| (lane.route, Seen::default()))
        .collect();
    for (lane, stream) in places {
        let (Some(groups), Some(done)) = (answers.next(), answers.next()) else {
            break;
        };
        // A stream that nobody wrote to yet has no groups.
        let written = groups.is_ok();
        let group = find(groups, &lane.group);
        let waiting = match &group {
            Some(Group {
                lag: None,
                last_delivered,
                ..
            }) => count(redis, stream, last_delivered).await?,
            Some(Group { lag: Some(lag), .. }) => *lag,
            // Redis lost the group: it is made again, from the beginning.
            None if written => count(redis, stream, "0").await?,
            None => 0,
        };
        let seen = seen.entry(lane.route).or_default();
        seen.waiting += waiting;
        seen.held += group.map_or(0, |group| group.pending);
        if !is_targeted(&stream.key) {
            seen.done += done.ok().and_then(|done| reply::int(&done)).unwrap_or(0) as u64;
        }
    }
    Ok(seen)
}

fn find(groups: RedisResult<Value>, name: &str) -> Option<Group> {
    groups
        .map(reply::groups)
        .unwrap_or_default()
        .into_iter()
        .find(|group| group.name == name)
}

async fn count(redis: &Redis, stream: &Stream, after: &str) -> Result<u64, Error> {
    let mut cmd = redis::cmd("XRANGE");
    cmd.arg(&*stream.key)
        .arg(format!("({after}"))
        .arg("+")
        .arg("COUNT")
        .arg(COUNT_LIMIT);
    Ok(reply::list(redis.link.shared().one(&cmd).await?).len() as u64)
}
