//! Consumer groups: made when a subscription registers, and made again when
//! Redis lost them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use redis::{RedisError, RedisResult};

use super::keys::{self, Lane};
use super::reply::Group;
use super::{Redis, doubt, reply};
use crate::broker::Route;
use crate::error::Error;

/// A new subscription starts from now. One that the ledger knew already had a
/// group: where it is missing, Redis lost data, and what is on the stream by
/// now came after that.
pub(super) async fn routes(redis: &Redis, routes: &[Route]) -> Result<(), Error> {
    let fresh: Vec<_> = routes
        .iter()
        .filter(|route| !route.fresh.is_empty())
        .map(|route| redis.link.keys().lane(&fresh_only(route)))
        .collect();
    if !fresh.is_empty() {
        groups(redis, fresh.iter().map(|lane| (lane, false))).await?;
    }
    let lanes: Vec<_> = routes
        .iter()
        .map(|route| (redis.link.keys().lane(route), route.known))
        .collect();
    groups(redis, lanes.iter().map(|(lane, known)| (lane, *known))).await
}

/// The names that are new to a known subscription start from now, too. Its first name
/// stays, as that is where its own stream has its name from.
fn fresh_only(route: &Route) -> Route {
    let mut only = route.clone();
    let first = route.events.first();
    only.events
        .retain(|event| route.fresh.contains(event) || Some(event) == first);
    only
}

/// Makes the groups that are missing.
pub(super) async fn groups<'a>(
    redis: &Redis,
    lanes: impl Iterator<Item = (&'a Lane, bool)>,
) -> Result<(), Error> {
    let (missing, mut failed) = missing(redis, lanes.collect()).await?;
    let mut lost: Vec<_> = missing.iter().filter(|group| group.known).collect();
    lost.dedup_by_key(|group| group.lane.route);
    let lost: Vec<_> = lost.into_iter().map(|group| group.lane).collect();
    if !lost.is_empty() {
        // Before anybody can read from them.
        doubt::regroup(redis, &lost).await?;
    }
    let mut pipe = redis::pipe();
    for Missing { lane, place, known } in &missing {
        let from_now = !known && *place < lane.mains().len();
        let start = if from_now { "$" } else { "0" };
        pipe.cmd("XGROUP")
            .arg("CREATE")
            .arg(&*lane.streams[*place].key)
            .arg(&*lane.group)
            .arg(start)
            .arg("MKSTREAM");
    }
    let answers = redis.link.shared().many(&mut pipe).await?;
    for (answer, group) in answers.into_iter().zip(missing) {
        match answer {
            Ok(_) if group.known => redis.lost.store(true, Ordering::Release),
            Ok(_) => {}
            // Another process was faster.
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// A group that is not there.
struct Missing<'a> {
    lane: &'a Lane,
    /// Which of its streams.
    place: usize,
    known: bool,
}

/// The groups that are not there, and why Redis would not say of others.
async fn missing<'a>(
    redis: &Redis,
    lanes: Vec<(&'a Lane, bool)>,
) -> Result<(Vec<Missing<'a>>, Option<RedisError>), Error> {
    let streams = lanes.iter().flat_map(|(lane, _)| &lane.streams);
    let there = groups_of(redis, streams.map(|stream| &*stream.key)).await?;
    let (mut missing, mut unsaid) = (Vec::new(), None);
    for (lane, known) in lanes {
        for (place, stream) in lane.streams.iter().enumerate() {
            match there.get(&*stream.key) {
                Some(Ok(groups)) if !groups.contains_key(&*lane.group) => {
                    missing.push(Missing { lane, place, known });
                }
                Some(Err(error)) => unsaid = Some(error.clone()),
                _ => {}
            }
        }
    }
    Ok((missing, unsaid))
}

/// The groups of one stream by their names, where Redis would say.
pub(super) type Groups = RedisResult<HashMap<String, Group>>;

/// The groups of each stream, none where it is not there. However often it is named, it
/// is asked once.
pub(super) async fn groups_of<'a>(
    redis: &Redis,
    streams: impl Iterator<Item = &'a str>,
) -> Result<HashMap<&'a str, Groups>, Error> {
    let streams: BTreeSet<&str> = streams.collect();
    let mut pipe = redis::pipe();
    for stream in &streams {
        pipe.cmd("XINFO").arg("GROUPS").arg(*stream);
    }
    let answers = redis.link.shared().many(&mut pipe).await?;
    let by_name = |answer| -> Groups {
        let groups = reply::unless_absent(answer)?.map(reply::groups);
        let groups = groups.unwrap_or_default().into_iter();
        Ok(groups.map(|group| (group.name.clone(), group)).collect())
    };
    Ok(streams
        .into_iter()
        .zip(answers.into_iter().map(by_name))
        .collect())
}

/// Takes away what a subscription has on Redis: its groups, counters and the
/// stream of its own.
pub(super) async fn forget(redis: &Redis, lane: &Lane) -> Result<(), Error> {
    let mut pipe = redis::pipe();
    for stream in lane.mains() {
        pipe.cmd("XGROUP")
            .arg("DESTROY")
            .arg(&*stream.key)
            .arg(&*lane.group);
        pipe.cmd("DEL").arg(keys::done(&stream.key, &lane.group));
    }
    if let Some(again) = lane.again() {
        pipe.cmd("DEL").arg(&*again.key);
    }
    for answer in redis.link.shared().many(&mut pipe).await? {
        // A stream that is not there has no group to end.
        reply::unless_absent(answer)?;
    }
    Ok(())
}

/// The group of a stream is gone, or went while a read waited on it.
pub(super) fn is_gone(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
