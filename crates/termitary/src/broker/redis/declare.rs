//! Consumer groups: made when a subscription registers, and made again when
//! Redis lost them.

use std::sync::atomic::Ordering;

use super::Redis;
use super::keys::{self, Lane};
use crate::broker::Route;
use crate::error::Error;

/// A new subscription starts from now. One that the ledger knew already had a
/// group: where it is missing, Redis lost data, and what is on the stream by
/// now came after that.
pub(super) async fn routes(redis: &Redis, routes: &[Route]) -> Result<(), Error> {
    let lanes: Vec<_> = routes
        .iter()
        .map(|route| (redis.link.keys().lane(route), route.known))
        .collect();
    groups(redis, lanes.iter().map(|(lane, known)| (lane, *known))).await
}

/// Makes the groups that are missing.
pub(super) async fn groups<'a>(
    redis: &Redis,
    lanes: impl Iterator<Item = (&'a Lane, bool)>,
) -> Result<(), Error> {
    let mut pipe = redis::pipe();
    let mut known = Vec::new();
    for (lane, was_known) in lanes {
        for (i, stream) in lane.streams.iter().enumerate() {
            let from_now = !was_known && i < lane.mains().len();
            let start = if from_now { "$" } else { "0" };
            pipe.cmd("XGROUP")
                .arg("CREATE")
                .arg(&*stream.key)
                .arg(&*lane.group)
                .arg(start)
                .arg("MKSTREAM");
            known.push(was_known);
        }
    }
    let answers = redis.link.shared().many(&mut pipe).await?;
    for (answer, was_known) in answers.into_iter().zip(known) {
        match answer {
            Ok(_) if was_known => redis.lost.store(true, Ordering::Release),
            Ok(_) => {}
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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
    // A stream that is not there has no group to end.
    redis.link.shared().many(&mut pipe).await.map(drop)
}

/// The group of a stream is gone, or went while a read waited on it.
pub(super) fn is_gone(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
