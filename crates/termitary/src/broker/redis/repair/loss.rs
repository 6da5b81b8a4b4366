//! Redis may go back in time: a restart loses the tail of its file, a failover
//! what the replica had not heard, a group made anew has given out nothing. It
//! then gives out again what somebody may be running, and does not know. The
//! ledger remembers which entries that may be; they run under a higher fence.
//! So do those that the ledger is about to send again, because nobody told it
//! yet that they arrived.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::broker::redis::Redis;
use crate::broker::redis::entry::Carried;
use crate::broker::redis::wire::info::{self, Info};
use crate::broker::redis::wire::keys::Lane;
use crate::broker::redis::wire::reply;
use crate::delivery::{EntryAddress, WorkerId};
use crate::error::Error;
use crate::ledger::handover::{self, Again};
use crate::ledger::redis_servers as servers;

/// A delivery whose entry may have been given out before, or would soon be sent again.
pub(crate) struct Doubted {
    pub(crate) entry: EntryAddress,
    pub(crate) carried: Carried,
    pub(crate) seq: i64,
    /// As the ledger has it now.
    pub(crate) fence: i64,
    pub(crate) attempts: u32,
}

/// Asked on each new connection that reads, before it reads: is it the server
/// that the ledger knows?
pub(crate) async fn greet(
    redis: &Redis,
    lane: &Lane,
    conn: &mut MultiplexedConnection,
) -> Result<(), Error> {
    let who = identity();
    let answers: Vec<RedisResult<Value>> = who.query_async(conn).await?;
    let Some(server) = identify(answers)? else {
        return Ok(()); // not allowed to ask
    };
    let known = servers::last_read_from(&mut *redis.db.read().await?, lane.route).await?;
    if known.as_deref() == Some(&*server) {
        return Ok(());
    }
    let until_ms = match known {
        Some(_) => {
            let ends: Vec<RedisResult<Value>> = ends(&[lane]).query_async(conn).await?;
            Some(last(ends)?)
        }
        None => None, // nothing was ever read
    };
    let mut tx = redis.db.begin().await?;
    if let Some(until_ms) = until_ms {
        servers::given_out_until(&mut tx, lane.route, until_ms).await?;
    }
    servers::read_from(&mut tx, lane.route, &server).await?;
    tx.commit().await?;
    if known.is_some() {
        redis.lost.store(true, Ordering::Release);
    }
    Ok(())
}

/// The groups of these subscriptions are about to be made anew.
pub(crate) async fn regroup(redis: &Redis, lanes: &[&Lane]) -> Result<(), Error> {
    let mut until = Vec::with_capacity(lanes.len());
    for lane in lanes {
        let ends = redis.link.shared().many(&mut ends(&[lane])).await?;
        until.push((lane.route, last(ends)?));
    }
    let mut tx = redis.db.begin().await?;
    for (route, until_ms) in until {
        servers::given_out_until(&mut tx, route, until_ms).await?;
    }
    tx.commit().await
}

/// Gives these the next fence; answers those that may run under it.
pub(crate) async fn refence(
    redis: &Redis,
    lane: &Lane,
    worker: &WorkerId,
    doubted: &[Doubted],
) -> Result<HashMap<i64, i64>, Error> {
    let again: Vec<_> = doubted
        .iter()
        .map(|one| Again {
            row: (one.seq, lane.route, one.fence),
            worker,
            entry: one.entry.recorded(),
        })
        .collect();
    let mut tx = redis.db.begin().await?;
    let rows = handover::refence(&mut tx, &again, redis.trusted_until_us()).await?;
    tx.commit().await?;
    metrics::counter!("termitary_refenced_total").increment(rows.len() as u64);
    Ok(rows
        .into_iter()
        .map(|(seq, _, fence)| (seq, fence))
        .collect())
}

/// Where each stream of these lanes ends.
fn ends(lanes: &[&Lane]) -> Pipeline {
    let mut pipe = redis::pipe();
    for stream in lanes.iter().flat_map(|lane| &lane.streams) {
        pipe.cmd("XREVRANGE").arg(&*stream.key).arg("+").arg("-");
        pipe.arg("COUNT").arg(1);
    }
    pipe.ignore_errors();
    pipe
}

/// The milliseconds of the youngest entry; a stream that is not there has none.
fn last(ends: Vec<RedisResult<Value>>) -> Result<i64, Error> {
    let mut last = 0;
    for end in ends {
        let end = match end {
            // A key of another type in the way holds no entries.
            Err(error) if error.code() == Some("WRONGTYPE") => continue,
            end => end?,
        };
        let ids = reply::entries(end).into_iter().map(|raw| ms(&raw.id));
        last = ids.chain([last]).max().unwrap_or(0);
    }
    Ok(last)
}

/// When an entry was added, by the server's clock.
pub(crate) fn ms(id: &str) -> i64 {
    reply::id(id).map_or(0, |(ms, _)| i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Asks for what tells one run of a server, and one line of its history, from
/// another.
pub(crate) fn identity() -> Pipeline {
    info::ask(&["server", "replication"])
}

/// The answer; `None` where the server never says. An error says nothing about
/// which server it is.
pub(crate) fn identify(answers: Vec<RedisResult<Value>>) -> Result<Option<String>, Error> {
    let info = Info::read(answers)?;
    let line = info.field("master_replid").unwrap_or_default();
    Ok(info.field("run_id").map(|run| format!("{run}/{line}")))
}
