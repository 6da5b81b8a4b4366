//! Consumer groups: made when a subscription registers, and made again when Redis lost
//! them, for subscriptions on record only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::loss;
use crate::broker::redis::Redis;
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::{self, StreamSet};
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply::{self, Group};
use crate::delivery::Route;
use crate::error::Error;
use crate::ledger;

/// Makes the groups of declared subscriptions. A new subscription starts from now. A known
/// one had a group: if it is missing, Redis lost data, and everything on the stream came
/// after that.
pub(crate) async fn declare(redis: &Redis, routes: &[Route]) -> Result<(), Error> {
    let keys = redis.link.keys();
    let fresh: Vec<_> = routes
        .iter()
        .filter(|route| !route.fresh.is_empty())
        .map(|route| keys.stream_set(&fresh_only(route)))
        .collect();
    if !fresh.is_empty() {
        make_missing(redis, fresh.iter().map(|set| (set, false))).await?;
    }
    let sets: Vec<_> = routes
        .iter()
        .map(|route| (keys.stream_set(route), route.known))
        .collect();
    make_missing(redis, sets.iter().map(|(set, known)| (set, *known))).await
}

/// Names that are new to a known subscription start from now, too. Its first name stays:
/// the subscription's own stream is named after it.
fn fresh_only(route: &Route) -> Route {
    let mut only = route.clone();
    let first = route.events.first();
    only.events
        .retain(|event| route.fresh.contains(event) || Some(event) == first);
    only
}

/// Makes the missing groups among these, each with whether its subscription was known
/// before. A subscription that was dropped since gets none.
pub(crate) async fn make_missing<'a>(
    redis: &Redis,
    sets: impl Iterator<Item = (&'a StreamSet, bool)>,
) -> Result<(), Error> {
    let _turn = redis.groups.lock().await;
    let (missing, failed) = missing(redis, sets.collect()).await?;
    if missing.is_empty() {
        return failed.map_or(Ok(()), |error| Err(error.into()));
    }
    let on_record = OnRecord::read(redis).await?;
    let refused = make(redis, missing, &on_record).await?.pop();
    let failed = refused.map(|(_, error)| error).or(failed);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// After a refusal, readers restore only their own groups for this long: every reader for
/// every group would be a flood of commands.
const OWN_ONLY: Duration = Duration::from_secs(5);

/// The last time that Redis refused to make all missing groups.
pub(crate) type Refused = Option<Instant>;

/// A reader found the group of its subscription gone. Mostly Redis lost all of them: makes
/// every missing group, once for all readers that ask. Returns whether the subscription is
/// on record; a dropped one gets no group.
pub(crate) async fn restore(redis: &Redis, set: &StreamSet) -> Result<bool, Error> {
    let mut refused_at = redis.groups.lock().await;
    let (own, failed) = missing(redis, vec![(set, true)]).await?;
    if own.is_empty() {
        return failed.map_or(Ok(true), |error| Err(error.into()));
    }
    let on_record = OnRecord::read(redis).await?;
    if !on_record.contains(set) {
        return Ok(false);
    }
    let missing = if refused_at.is_some_and(|at| at.elapsed() < OWN_ONLY) {
        own
    } else {
        // Until this succeeds.
        *refused_at = Some(Instant::now());
        let sets = on_record.0.values().map(|set| (set, true)).collect();
        missing(redis, sets).await?.0
    };
    // Housekeeping reports failures of other subscriptions.
    let refused = make(redis, missing, &on_record).await?;
    if refused.is_empty() {
        *refused_at = None;
    }
    match refused.into_iter().find(|(route, _)| *route == set.route) {
        Some((_, error)) => Err(error.into()),
        None => Ok(true),
    }
}

/// The subscriptions of the ledger, each by its number and its name: older versions may
/// have used the number of a dropped one again.
struct OnRecord(HashMap<(i64, Arc<str>), StreamSet>);

impl OnRecord {
    async fn read(redis: &Redis) -> Result<Self, Error> {
        let sets = stream_sets(redis).await?.into_iter();
        Ok(Self(
            sets.map(|set| ((set.route, set.group.clone()), set))
                .collect(),
        ))
    }

    fn contains(&self, set: &StreamSet) -> bool {
        self.0.contains_key(&(set.route, set.group.clone()))
    }
}

/// Every subscription on record.
pub(crate) async fn stream_sets(redis: &Redis) -> Result<Vec<StreamSet>, Error> {
    let routes = ledger::routes(&redis.db).await?.into_iter();
    Ok(routes
        // The route that parks unreadable input reads no stream.
        .filter(|route| route.name != ledger::BRIDGE)
        .map(|route| redis.link.keys().stream_set(&route))
        .collect())
}

/// Makes the groups of subscriptions on record. Returns the errors, each with its route.
async fn make(
    redis: &Redis,
    missing: Vec<Missing<'_>>,
    on_record: &OnRecord,
) -> Result<Vec<(i64, RedisError)>, Error> {
    let mut missing = missing;
    missing.retain(|group| on_record.contains(group.set));
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let mut lost: Vec<_> = missing
        .iter()
        .filter(|group| group.known)
        .map(|group| group.set)
        .collect();
    lost.dedup_by_key(|set| set.route);
    if !lost.is_empty() {
        // Before anybody can read from them.
        loss::before_groups(redis, &lost).await?;
    }
    let create = |Missing { set, place, known }: &Missing<'_>| {
        let from_now = !known && *place < set.mains().len();
        let start = if from_now { "$" } else { "0" };
        commands::create_group(&set.streams[*place].key, &set.group, start)
    };
    let mut pipe: Pipeline = missing.iter().map(create).collect();
    let mut refused = Vec::new();
    let replies = redis.link.shared().many(&mut pipe).await?;
    for (reply, group) in replies.into_iter().zip(&missing) {
        match reply {
            Ok(_) if group.known => redis.losses.group_made_again(),
            Ok(_) => {}
            // Another process was faster.
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => refused.push((group.set.route, error)),
        }
    }
    // A subscription that was dropped meanwhile had no group yet to destroy.
    let on_record = OnRecord::read(redis).await?;
    for group in missing
        .iter()
        .filter(|group| !on_record.contains(group.set))
    {
        remove(redis, group.set).await?;
    }
    Ok(refused)
}

/// A missing group.
struct Missing<'a> {
    set: &'a StreamSet,
    /// The index of its stream.
    place: usize,
    known: bool,
}

/// Returns the missing groups, and an error if Redis refused to say about others.
async fn missing<'a>(
    redis: &Redis,
    sets: Vec<(&'a StreamSet, bool)>,
) -> Result<(Vec<Missing<'a>>, Option<RedisError>), Error> {
    let streams = sets.iter().flat_map(|(set, _)| &set.streams);
    let there = groups_of(redis, streams.map(|stream| &*stream.key)).await?;
    let (mut missing, mut unknown) = (Vec::new(), None);
    for (set, known) in sets {
        for (place, stream) in set.streams.iter().enumerate() {
            match there.get(&*stream.key) {
                Some(Ok(groups)) if !groups.contains_key(&*set.group) => {
                    missing.push(Missing { set, place, known });
                }
                Some(Err(error)) => unknown = Some(error.clone()),
                _ => {}
            }
        }
    }
    Ok((missing, unknown))
}

/// The groups of one stream by their names.
pub(crate) type Groups = RedisResult<HashMap<String, Group>>;

/// Returns the groups of each stream, none of a missing stream. Asks once for a stream that
/// is named twice.
pub(crate) async fn groups_of<'a>(
    redis: &Redis,
    streams: impl Iterator<Item = &'a str>,
) -> Result<HashMap<&'a str, Groups>, Error> {
    let streams: BTreeSet<&str> = streams.collect();
    let mut pipe: Pipeline = streams
        .iter()
        .map(|stream| commands::groups(stream))
        .collect();
    let replies = redis.link.shared().many(&mut pipe).await?;
    let by_name = |reply| -> Groups {
        let groups = reply::unless_absent(reply)?.map(reply::groups);
        let groups = groups.unwrap_or_default().into_iter();
        Ok(groups.map(|group| (group.name.clone(), group)).collect())
    };
    Ok(streams
        .into_iter()
        .zip(replies.into_iter().map(by_name))
        .collect())
}

/// Removes a subscription from Redis: its groups, its counters and its own stream. Returns
/// how many of these there were.
pub(crate) async fn remove(redis: &Redis, set: &StreamSet) -> Result<i64, Error> {
    let mut pipe = Pipeline::new();
    for stream in set.mains() {
        pipe.add(commands::destroy_group(&stream.key, &set.group));
        pipe.add(commands::delete(&keys::done(&stream.key, &set.group)));
    }
    if let Some(again) = set.again() {
        pipe.add(commands::delete(&again.key));
    }
    let mut there = 0;
    for reply in redis.link.shared().many(&mut pipe).await? {
        // A missing stream has no group to destroy.
        let gone = reply::unless_absent(reply)?;
        there += gone.and_then(|gone| reply::int(&gone)).unwrap_or(0);
    }
    Ok(there)
}

/// Removes what dropped subscriptions still have on Redis: a worker that knew one may have
/// made its groups again and died, or be of an older version.
pub(crate) async fn remove_dropped(redis: &Redis) -> Result<(), Error> {
    let dropped = dropped(redis).await?;
    if dropped.is_empty() {
        return Ok(());
    }
    let streams = dropped.iter().flat_map(|set| &set.streams);
    let there = groups_of(redis, streams.map(|stream| &*stream.key)).await?;
    let stays = |set: &StreamSet| {
        let groups = set
            .streams
            .iter()
            .filter_map(|stream| there.get(&*stream.key));
        groups
            .flatten()
            .any(|groups| groups.contains_key(&*set.group))
    };
    if !dropped.iter().any(stays) {
        return Ok(());
    }
    // Once more: a subscription registered again meanwhile made its groups after that.
    let still: HashSet<_> = self::dropped(redis).await?.into_iter().map(name).collect();
    for set in dropped.iter().filter(|set| stays(set)) {
        if still.contains(&name(set.clone())) {
            remove(redis, set).await?;
            tracing::info!(subscription = %set.group, "removed from Redis what was left of a dropped subscription");
        }
    }
    Ok(())
}

/// The streams of dropped subscriptions, one set for each event.
async fn dropped(redis: &Redis) -> Result<Vec<StreamSet>, Error> {
    let routes = ledger::dropped(&redis.db).await?;
    let keys = redis.link.keys();
    Ok(routes.iter().map(|route| keys.stream_set(route)).collect())
}

/// The group and the first stream of a set.
fn name(set: StreamSet) -> (Arc<str>, Option<Arc<str>>) {
    (
        set.group,
        set.streams.into_iter().next().map(|stream| stream.key),
    )
}

/// The group of a stream is gone, or was destroyed while a read waited on it.
pub(crate) fn is_gone(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
