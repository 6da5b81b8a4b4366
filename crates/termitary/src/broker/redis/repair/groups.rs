//! Consumer groups: made when a subscription registers, and made again when
//! Redis lost them; of a subscription that is on record, and of no other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::{RedisError, RedisResult};

use super::loss;
use crate::broker::redis::Redis;
use crate::broker::redis::wire::keys::{self, Lane};
use crate::broker::redis::wire::reply::{self, Group};
use crate::delivery::Route;
use crate::error::Error;
use crate::ledger;

/// A new subscription starts from now. One that the ledger knew already had a group: if it is
/// missing, Redis lost data, and the entries now on the stream came after that.
pub(crate) async fn routes(redis: &Redis, routes: &[Route]) -> Result<(), Error> {
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
    let made = groups(redis, lanes.iter().map(|(lane, known)| (lane, *known))).await;
    made.map(drop)
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

/// Creates missing groups. The caller may know a subscription that was dropped since: no group is
/// created for it. Returns how many of them are registered.
pub(crate) async fn groups<'a>(
    redis: &Redis,
    lanes: impl Iterator<Item = (&'a Lane, bool)>,
) -> Result<usize, Error> {
    let lanes: Vec<_> = lanes.collect();
    let (missing, failed) = missing(redis, lanes.clone()).await?;
    if missing.is_empty() {
        return failed.map_or(Ok(lanes.len()), |error| Err(error.into()));
    }
    let on_record = on_record(redis).await?;
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|group| on_record.contains(group.lane))
        .collect();
    let failed = make(redis, &missing).await?.or(failed);
    forget_dropped(redis, &missing).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(lanes
            .iter()
            .filter(|(lane, _)| on_record.contains(lane))
            .count()),
    }
}

/// The subscriptions of the ledger, each by its number and its name: numbers of
/// dropped ones may have been given again by older versions.
struct OnRecord(HashSet<(i64, String)>);

impl OnRecord {
    fn contains(&self, lane: &Lane) -> bool {
        self.0.contains(&(lane.route, lane.group.to_string()))
    }
}

async fn on_record(redis: &Redis) -> Result<OnRecord, Error> {
    let routes = ledger::routes(&redis.db).await?.into_iter();
    Ok(OnRecord(
        routes.map(|route| (route.id, route.name)).collect(),
    ))
}

/// Looks again once the groups are made: who dropped a subscription in between
/// found no group of it to destroy.
async fn forget_dropped(redis: &Redis, made: &[Missing<'_>]) -> Result<(), Error> {
    if made.is_empty() {
        return Ok(());
    }
    let on_record = on_record(redis).await?;
    for group in made.iter().filter(|group| !on_record.contains(group.lane)) {
        forget(redis, group.lane).await?;
    }
    Ok(())
}

/// Creates these groups; returns the error if one could not be created.
async fn make(redis: &Redis, missing: &[Missing<'_>]) -> Result<Option<RedisError>, Error> {
    let mut failed = None;
    let mut lost: Vec<_> = missing.iter().filter(|group| group.known).collect();
    lost.dedup_by_key(|group| group.lane.route);
    let lost: Vec<_> = lost.into_iter().map(|group| group.lane).collect();
    if !lost.is_empty() {
        // Before anybody can read from them.
        loss::regroup(redis, &lost).await?;
    }
    let mut pipe = redis::pipe();
    for Missing { lane, place, known } in missing {
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
    Ok(failed)
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
pub(crate) type Groups = RedisResult<HashMap<String, Group>>;

/// The groups of each stream, none where it is not there. However often it is named, it
/// is asked once.
pub(crate) async fn groups_of<'a>(
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

/// Removes everything of a subscription on Redis: its groups, its counters and its own stream.
/// Returns how many of those there were.
pub(crate) async fn forget(redis: &Redis, lane: &Lane) -> Result<i64, Error> {
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
    let mut there = 0;
    for answer in redis.link.shared().many(&mut pipe).await? {
        // A stream that is not there has no group to end.
        let gone = reply::unless_absent(answer)?;
        there += gone.and_then(|gone| reply::int(&gone)).unwrap_or(0);
    }
    Ok(there)
}

/// Removes leftovers of dropped subscriptions on Redis: a worker that knew one may have created it
/// again and died, or be of an older version.
pub(crate) async fn sweep(redis: &Redis) -> Result<(), Error> {
    let dropped = dropped(redis).await?;
    if dropped.is_empty() {
        return Ok(());
    }
    let streams = dropped.iter().flat_map(|lane| &lane.streams);
    let there = groups_of(redis, streams.map(|stream| &*stream.key)).await?;
    let stays = |lane: &Lane| {
        let groups = lane
            .streams
            .iter()
            .filter_map(|stream| there.get(&*stream.key));
        groups
            .flatten()
            .any(|groups| groups.contains_key(&*lane.group))
    };
    if !dropped.iter().any(stays) {
        return Ok(());
    }
    // Once more: a subscription that was registered again meanwhile created its groups after that.
    let still: HashSet<_> = self::dropped(redis).await?.into_iter().map(name).collect();
    for lane in dropped.iter().filter(|lane| stays(lane)) {
        if still.contains(&name(lane.clone())) {
            forget(redis, lane).await?;
            tracing::info!(subscription = %lane.group, "removed from Redis what was left of a dropped subscription");
        }
    }
    Ok(())
}

/// The dropped subscriptions, one lane per event.
async fn dropped(redis: &Redis) -> Result<Vec<Lane>, Error> {
    let routes = ledger::dropped(&redis.db).await?;
    let keys = redis.link.keys();
    Ok(routes.iter().map(|route| keys.lane(route)).collect())
}

/// Its group and its first stream.
fn name(lane: Lane) -> (Arc<str>, Option<Arc<str>>) {
    (
        lane.group,
        lane.streams.into_iter().next().map(|stream| stream.key),
    )
}

/// The group of a stream is gone, or went while a read waited on it.
pub(crate) fn is_gone(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
