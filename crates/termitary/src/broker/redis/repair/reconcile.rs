//! Asks Redis for the deliveries it was trusted with; what it does not have
//! any more, the ledger owes again.

use std::collections::HashMap;
use std::time::Duration;

use redis::{RedisResult, Value};

use super::groups;
use crate::broker::redis::wire::keys::Lane;
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
/// A delivery that keeps waiting is asked for less and less often, up to this.
const LONGEST_TRUST: Duration = minutes(15);
/// When to ask again about what Redis answered with an error.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whether each is still to be run; an error where Redis would not say.
type Standing = Vec<RedisResult<bool>>;

/// Looks at one page of deliveries whose trust has ended; answers whether
/// there may be more.
pub(crate) async fn run(redis: &Redis, lanes: &[Lane]) -> Result<bool, Error> {
    if planted::is("forgetful-relay") {
        return Ok(false);
    }
    let now_us = redis.now_us();
    let page = handover::overdue(&mut *redis.db.read().await?, now_us, PAGE).await?;
    if page.is_empty() {
        return Ok(false);
    }
    let more = page.len() == PAGE;
    let lanes: HashMap<_, _> = lanes.iter().map(|lane| (lane.route, lane)).collect();
    let (mut there, mut owed, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for row in page {
        let key = (row.seq, row.route, row.fence);
        match located(&lanes, &row) {
            // We run it ourselves: whatever became of its entry, it is in hand.
            Some(entry) if redis.live.anyone_holds(&entry) => {
                there.push((key, trust(redis, &row, now_us)));
            }
            Some(entry) => asked.push((row, entry)),
            None => owed.push(key),
        }
    }
    let standing = ask(redis, &asked).await?;
    let mut unsaid = None;
    for ((row, _), stands) in asked.iter().zip(standing) {
        let key: Row = (row.seq, row.route, row.fence);
        match stands {
            Ok(true) => there.push((key, trust(redis, row, now_us))),
            Ok(false) => owed.push(key),
            Err(error) => {
                // Not lost: not known. Others get their turn before it is
                // asked for again.
                there.push((key, now_us.saturating_add(micros(ASK_AGAIN))));
                unsaid = Some(error);
            }
        }
    }
    if !owed.is_empty() {
        fault::point!("reconcile.asked");
    }
    let mut tx = redis.db.begin().await?;
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
    match unsaid {
        Some(error) => Err(error.into()),
        None => Ok(more),
    }
}

/// Nothing that Redis was trusted with is taken for granted any more.
pub(crate) async fn distrust(redis: &Redis) -> Result<(), Error> {
    redis.noting.distrust();
    let mut tx = redis.db.begin().await?;
    let rows = handover::distrust(&mut tx, redis.now_us(), redis.doubted_until_us()).await?;
    tx.commit().await?;
    tracing::warn!(
        deliveries = rows,
        "Redis may have lost data: asking for everything that it was trusted with"
    );
    Ok(())
}

fn trust(redis: &Redis, row: &Trusted, now_us: i64) -> i64 {
    let least = micros(redis.config.reconcile_time());
    let waited = now_us.saturating_sub(row.due_us);
    now_us.saturating_add(waited.clamp(least, micros(LONGEST_TRUST).max(least)))
}

/// The entry that carries it, if that is where its subscription reads today.
fn located(lanes: &HashMap<i64, &Lane>, row: &Trusted) -> Option<EntryAddress> {
    let (key, id) = row.entry.as_ref()?.0.split_once('|')?;
    let lane = lanes.get(&row.route)?;
    let stream = lane.streams.iter().find(|stream| *stream.key == *key)?;
    Some(lane.address(stream, id))
}

/// Whether each entry is on its stream and still to be run: pending, or not
/// given to the group yet.
async fn ask(redis: &Redis, asked: &[(Trusted, EntryAddress)]) -> Result<Standing, Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let streams = asked.iter().map(|(_, entry)| &*entry.stream);
    let groups = groups::groups_of(redis, streams).await?;
    let mut pipe = redis::pipe();
    for (_, entry) in asked {
        pipe.cmd("XRANGE")
            .arg(&*entry.stream)
            .arg(&*entry.id)
            .arg(&*entry.id);
        pipe.cmd("XPENDING")
            .arg(&*entry.stream)
            .arg(&*entry.group)
            .arg(&*entry.id)
            .arg(&*entry.id)
            .arg(1);
    }
    let mut answers = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut standing = Vec::with_capacity(asked.len());
    for (row, entry) in asked {
        let (Some(found), Some(pending)) = (answers.next(), answers.next()) else {
            break;
        };
        standing.push(match groups.get(&*entry.stream) {
            Some(Ok(groups)) => stands(row, entry, found, pending, groups),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(false),
        });
    }
    Ok(standing)
}

fn stands(
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
