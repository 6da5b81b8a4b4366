//! Asks Redis for the deliveries that the ledger trusts it with. Deliveries that Redis does
//! not have any more are owed again.

use std::collections::HashMap;
use std::time::Duration;

use redis::{RedisResult, Value};

use super::groups;
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::StreamSet;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply::{self, Group};
use crate::broker::redis::{Redis, entry};
use crate::clock::{micros, minutes};
use crate::delivery::EntryAddress;
use crate::error::Error;
use crate::fault;
use crate::ledger::Row;
use crate::ledger::handover::{self, Trusted};
use crate::planted;

const PAGE: usize = 200;
/// The longest wait between two checks of a delivery; the wait grows with its age.
const LONGEST_TRUST: Duration = minutes(15);
/// The wait before the next check of a delivery for which Redis returned an error.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Checks one page of deliveries whose trust has ended. Returns whether there may be more.
pub(crate) async fn check_page(redis: &Redis, sets: &[StreamSet]) -> Result<bool, Error> {
    if planted::is("forgetful-relay") {
        return Ok(false);
    }
    let now_us = redis.now_us();
    let page = handover::overdue(&mut *redis.db.read().await?, now_us, PAGE).await?;
    if page.is_empty() {
        return Ok(false);
    }
    let more = page.len() == PAGE;
    let sets: HashMap<_, _> = sets.iter().map(|set| (set.route, set)).collect();
    let (mut there, mut owed, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for row in page {
        let key = (row.seq, row.route, row.fence);
        match located(&sets, &row) {
            // This process runs it, whatever became of its entry.
            Some(entry) if redis.leased.has(&entry) => {
                there.push((key, trust(redis, &row, now_us)));
            }
            Some(entry) => asked.push((row, entry)),
            None => owed.push(key),
        }
    }
    let replies = ask(redis, &asked).await?;
    let mut unknown = None;
    for ((row, _), on_redis) in asked.iter().zip(replies) {
        let key: Row = (row.seq, row.route, row.fence);
        match on_redis {
            Ok(true) => there.push((key, trust(redis, row, now_us))),
            Ok(false) => owed.push(key),
            Err(error) => {
                // Not lost, but unknown. Others get their turn before the next try.
                there.push((key, now_us.saturating_add(micros(ASK_AGAIN))));
                unknown = Some(error);
            }
        }
    }
    if !owed.is_empty() {
        fault::point!("reconcile.asked");
    }
    let mut tx = redis.db.begin_own().await?;
    handover::trust(&mut tx, &there).await?;
    let owing = handover::owe(&mut tx, &owed).await?;
    tx.commit_and_wake().await?;
    if owing > 0 {
        fault::point!("reconcile.owed");
        metrics::counter!("termitary_reconciled_total").increment(owing);
        tracing::warn!(
            deliveries = owing,
            "Redis did not have these deliveries any more: they are sent again"
        );
    }
    match unknown {
        Some(error) => Err(error.into()),
        None => Ok(more),
    }
}

fn trust(redis: &Redis, row: &Trusted, now_us: i64) -> i64 {
    let least = micros(redis.config.reconcile_time());
    let waited = now_us.saturating_sub(row.due_us);
    now_us.saturating_add(waited.clamp(least, micros(LONGEST_TRUST).max(least)))
}

/// The entry that carries the delivery, if its subscription still reads that stream.
fn located(sets: &HashMap<i64, &StreamSet>, row: &Trusted) -> Option<EntryAddress> {
    let (key, id) = row.entry.as_ref()?.0.split_once('|')?;
    let set = sets.get(&row.route)?;
    let stream = set.streams.iter().find(|stream| *stream.key == *key)?;
    Some(set.address(stream, id))
}

/// Returns whether each entry is on its stream and still to be run: pending, or not given
/// to the group yet. An error if Redis refused to say.
async fn ask(
    redis: &Redis,
    asked: &[(Trusted, EntryAddress)],
) -> Result<Vec<RedisResult<bool>>, Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let streams = asked.iter().map(|(_, entry)| &*entry.stream);
    let groups = groups::groups_of(redis, streams).await?;
    let mut pipe = Pipeline::new();
    for (_, EntryAddress { stream, group, id }) in asked {
        pipe.add(commands::range(stream, id, id));
        pipe.add(commands::pending(stream, group, id));
    }
    let mut replies = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut all = Vec::with_capacity(asked.len());
    for (row, entry) in asked {
        let (Some(found), Some(pending)) = (replies.next(), replies.next()) else {
            break;
        };
        all.push(match groups.get(&*entry.stream) {
            Some(Ok(groups)) => is_on_redis(row, entry, found, pending, groups),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(false),
        });
    }
    Ok(all)
}

fn is_on_redis(
    row: &Trusted,
    entry: &EntryAddress,
    found: RedisResult<Value>,
    pending: RedisResult<Value>,
    groups: &HashMap<String, Group>,
) -> RedisResult<bool> {
    let ours = reply::unless_absent(found)?.is_some_and(|found| {
        let found = reply::entries(found);
        let id = row.id.uuid();
        let carries = |raw| id.is_some_and(|id| entry::carries(raw, row.seq, id));
        found.iter().any(carries)
    });
    let pending =
        reply::unless_absent(pending)?.is_some_and(|pending| !reply::list(pending).is_empty());
    let group = groups.get(&*entry.group);
    let delivered = group.and_then(|group| reply::id(&group.last_delivered));
    let waiting = reply::id(&entry.id)
        .zip(delivered)
        .is_some_and(|(id, delivered)| id > delivered);
    Ok(ours && (pending || waiting))
}
