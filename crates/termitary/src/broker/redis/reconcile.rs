//! Asks Redis for the deliveries it was trusted with; what it does not have
//! any more, the ledger owes again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};

use super::keys::Lane;
use super::{Redis, reply};
use crate::broker::Entry;
use crate::clock::{micros, minutes};
use crate::error::Error;
use crate::fault;
use crate::ledger::relay::{self as rows, Row, Trusted};
use crate::planted;

const PAGE: usize = 200;
/// A delivery that keeps waiting is asked for less and less often, up to this.
const LONGEST_TRUST: Duration = minutes(15);

/// Where a group stands on a stream.
type Delivered = HashMap<(Arc<str>, Arc<str>), Option<(u64, u64)>>;

/// Looks at one page of deliveries whose trust has ended; answers whether
/// there may be more.
pub(super) async fn run(redis: &Redis, lanes: &[Lane]) -> Result<bool, Error> {
    if planted::is("forgetful-relay") {
        return Ok(false);
    }
    let now_us = redis.now_us();
    let page = rows::overdue(&mut *redis.db.reader().acquire().await?, now_us, PAGE).await?;
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
    for ((row, _), stands) in asked.iter().zip(standing) {
        let key: Row = (row.seq, row.route, row.fence);
        if stands {
            there.push((key, trust(redis, row, now_us)));
        } else {
            owed.push(key);
        }
    }
    if !owed.is_empty() {
        fault::point!("reconcile.asked");
    }
    let mut tx = redis.db.begin().await?;
    rows::trust(&mut tx, &there).await?;
    let owing = rows::owe(&mut tx, &owed).await?;
    tx.commit_and_wake().await?;
    if owing > 0 {
        fault::point!("reconcile.owed");
        metrics::counter!("termitary_reconciled_total").increment(owing);
        tracing::warn!(
            deliveries = owing,
            "Redis did not have these deliveries any more: they are sent again"
        );
    }
    Ok(more)
}

/// Nothing that Redis was trusted with is taken for granted any more.
pub(super) async fn distrust(redis: &Redis) -> Result<(), Error> {
    let mut tx = redis.db.begin().await?;
    let rows = rows::distrust(&mut tx, redis.now_us()).await?;
    tx.commit().await?;
    tracing::warn!(
        deliveries = rows,
        "Redis may have lost data: asking for everything that it was trusted with"
    );
    Ok(())
}

fn trust(redis: &Redis, row: &Trusted, now_us: i64) -> i64 {
    let least = micros(redis.config.reconcile_time());
    now_us.saturating_add((now_us - row.due_us).clamp(least, micros(LONGEST_TRUST).max(least)))
}

/// The entry that carries it, if that is where its subscription reads today.
fn located(lanes: &HashMap<i64, &Lane>, row: &Trusted) -> Option<Entry> {
    let (key, id) = row.entry.as_deref()?.split_once('|')?;
    let lane = lanes.get(&row.route)?;
    let stream = lane.streams.iter().find(|stream| *stream.key == *key)?;
    Some(Entry {
        stream: stream.key.clone(),
        group: lane.group.clone(),
        id: id.to_owned(),
    })
}

/// Whether each entry is on its stream and still to be run: pending, or not
/// given to the group yet.
async fn ask(redis: &Redis, asked: &[(Trusted, Entry)]) -> Result<Vec<bool>, Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let delivered = delivered(redis, asked).await?;
    let mut pipe = redis::pipe();
    for (_, entry) in asked {
        pipe.cmd("XRANGE")
            .arg(&*entry.stream)
            .arg(&entry.id)
            .arg(&entry.id);
        pipe.cmd("XPENDING")
            .arg(&*entry.stream)
            .arg(&*entry.group)
            .arg(&entry.id)
            .arg(&entry.id)
            .arg(1);
    }
    let mut answers = redis.link.shared().many(&mut pipe).await?.into_iter();
    let mut standing = Vec::with_capacity(asked.len());
    for (row, entry) in asked {
        let (Some(found), Some(pending)) = (answers.next(), answers.next()) else {
            break;
        };
        let last = delivered
            .get(&(entry.stream.clone(), entry.group.clone()))
            .copied()
            .flatten();
        standing.push(stands(row, entry, found, pending, last));
    }
    Ok(standing)
}

fn stands(
    row: &Trusted,
    entry: &Entry,
    found: RedisResult<Value>,
    pending: RedisResult<Value>,
    delivered: Option<(u64, u64)>,
) -> bool {
    let ours = found.is_ok_and(|found| {
        let (seq, id) = (row.seq.to_string(), row.id.to_string());
        reply::entries(found).iter().any(|raw| {
            raw.field(b"l") == Some(seq.as_bytes()) && raw.field(b"i") == Some(id.as_bytes())
        })
    });
    let pending = pending.is_ok_and(|pending| !reply::list(pending).is_empty());
    let waiting = reply::id(&entry.id)
        .zip(delivered)
        .is_some_and(|(id, delivered)| id > delivered);
    ours && (pending || waiting)
}

async fn delivered(redis: &Redis, asked: &[(Trusted, Entry)]) -> Result<Delivered, Error> {
    let mut streams: Vec<_> = asked
        .iter()
        .map(|(_, entry)| entry.stream.clone())
        .collect();
    streams.sort();
    streams.dedup();
    let mut pipe = redis::pipe();
    for stream in &streams {
        pipe.cmd("XINFO").arg("GROUPS").arg(&**stream);
    }
    let answers = redis.link.shared().many(&mut pipe).await?;
    let mut delivered = HashMap::new();
    for (stream, answer) in streams.into_iter().zip(answers) {
        for group in answer.map(reply::groups).unwrap_or_default() {
            delivered.insert(
                (stream.clone(), group.name.into()),
                reply::id(&group.last_delivered),
            );
        }
    }
    Ok(delivered)
}
