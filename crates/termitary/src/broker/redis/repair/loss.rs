//! Redis may go back in time: a restart loses the tail of its file, a failover everything
//! that the replica had not received, and a group made again has given out nothing. Redis
//! then gives out entries again that a worker may be running. The ledger records up to
//! which entry that is possible; their deliveries run under a higher fence. So do
//! deliveries that the ledger is about to send again, because nobody has recorded yet that
//! they arrived.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use crate::broker::redis::Redis;
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::info::{self, Info};
use crate::broker::redis::wire::keys::StreamSet;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply;
use crate::delivery::{EntryAddress, WorkerId};
use crate::error::Error;
use crate::ledger::handover::{self, Again};
use crate::ledger::{Row, redis_servers as servers};
use crate::lock::Mutex;

/// Losses of data that this process noticed. Housekeeping acts on them once for all
/// signals that came until then.
#[derive(Default)]
pub(crate) struct Losses {
    noticed: AtomicBool,
    /// Groups that were made again since the last line in the log.
    groups: AtomicU64,
    acted_on: AtomicU64,
    /// The last server that was noticed as another one than before.
    server: Mutex<Option<String>>,
}

impl Losses {
    pub(crate) fn notice(&self) {
        self.noticed.store(true, Ordering::Release);
    }

    pub(crate) fn is_noticed(&self) -> bool {
        self.noticed.load(Ordering::Acquire)
    }

    /// Returns whether a loss was noticed since the last call.
    pub(crate) fn take(&self) -> bool {
        self.noticed.swap(false, Ordering::AcqRel)
    }

    /// Entries that were pending are gone from their stream.
    pub(crate) fn entries_gone(&self) {
        metrics::counter!("termitary_redis_losses_total").increment(1);
        self.notice();
    }

    /// Redis did not have the group of a known subscription.
    pub(crate) fn group_made_again(&self) {
        self.groups.fetch_add(1, Ordering::AcqRel);
        self.notice();
    }

    /// Another server, or another run of it: it may lack the tail of the data. Every
    /// subscription finds that out by itself; it is one loss.
    pub(crate) fn server_changed(&self, server: &str) {
        let mut last = self.server.lock();
        if last.as_deref() != Some(server) {
            *last = Some(server.to_owned());
            self.notice();
        }
    }

    /// The number of losses acted on. Entries sent before the latest of them may be gone.
    pub(crate) fn number(&self) -> u64 {
        self.acted_on.load(Ordering::Acquire)
    }

    fn act(&self) {
        self.acted_on.fetch_add(1, Ordering::AcqRel);
    }
}

/// Has the ledger trust Redis with no delivery any more: the reconciler asks for each.
pub(crate) async fn distrust(redis: &Redis) -> Result<(), Error> {
    redis.losses.act();
    let mut tx = redis.db.begin_own().await?;
    let deliveries = handover::distrust(&mut tx, redis.now_us(), redis.doubted_until_us()).await?;
    tx.commit().await?;
    let groups = redis.losses.groups.swap(0, Ordering::AcqRel);
    tracing::warn!(
        deliveries,
        groups,
        "Redis may have lost data: checking every delivery that was handed to Redis"
    );
    Ok(())
}

/// Checks a new connection that reads, before it reads: is it the server that the ledger
/// knows?
pub(crate) async fn check_server(
    redis: &Redis,
    set: &StreamSet,
    conn: &mut MultiplexedConnection,
) -> Result<(), Error> {
    let replies = identity().send(conn).await?;
    let Some(server) = identify(replies)? else {
        return Ok(()); // this user may not ask
    };
    let known = servers::last_read_from(&mut *redis.db.read().await?, set.route).await?;
    if known.as_deref() == Some(&*server) {
        return Ok(());
    }
    let until_ms = match known {
        Some(_) => Some(last(ends(&[set]).send(conn).await?)?),
        None => None, // nothing was ever read
    };
    let mut tx = redis.db.begin_own().await?;
    if let Some(until_ms) = until_ms {
        servers::given_out_until(&mut tx, set.route, until_ms).await?;
    }
    servers::read_from(&mut tx, set.route, &server).await?;
    tx.commit().await?;
    if known.is_some() {
        redis.losses.server_changed(&server);
    }
    Ok(())
}

/// Records that the groups of these subscriptions, about to be made again, may give out
/// entries a second time.
pub(crate) async fn before_groups(redis: &Redis, sets: &[&StreamSet]) -> Result<(), Error> {
    let mut ends = redis.link.shared().many(&mut ends(sets)).await?.into_iter();
    let mut until = Vec::with_capacity(sets.len());
    for set in sets {
        until.push((set.route, last(ends.by_ref().take(set.streams.len()))?));
    }
    let mut tx = redis.db.begin_own().await?;
    for (route, until_ms) in until {
        servers::given_out_until(&mut tx, route, until_ms).await?;
    }
    tx.commit().await
}

/// Gives these deliveries the next fence. Returns, by `seq`, the fences of those that may
/// run under it.
pub(crate) async fn refence(
    redis: &Redis,
    worker: &WorkerId,
    doubted: impl Iterator<Item = (Row, &EntryAddress)>,
) -> Result<HashMap<i64, i64>, Error> {
    let again: Vec<_> = doubted
        .map(|(row, entry)| Again {
            row,
            worker,
            entry: entry.recorded(),
        })
        .collect();
    let mut tx = redis.db.begin_own().await?;
    let rows = handover::refence(&mut tx, &again, redis.trusted_until_us()).await?;
    tx.commit().await?;
    metrics::counter!("termitary_refenced_total").increment(rows.len() as u64);
    Ok(rows
        .into_iter()
        .map(|(seq, _, fence)| (seq, fence))
        .collect())
}

/// Asks for the last entry of each stream of these sets.
fn ends(sets: &[&StreamSet]) -> Pipeline {
    let streams = sets.iter().flat_map(|set| &set.streams);
    streams
        .map(|stream| commands::last_entry(&stream.key))
        .collect()
}

/// The milliseconds of the youngest entry, 0 without any.
fn last(ends: impl IntoIterator<Item = RedisResult<Value>>) -> Result<i64, Error> {
    let mut last = 0;
    for end in ends {
        let end = match end {
            // A key of another type holds no entries.
            Err(error) if error.code() == Some("WRONGTYPE") => continue,
            end => end?,
        };
        let ids = reply::entries(end)
            .into_iter()
            .map(|raw| reply::entry_ms(&raw.id));
        last = ids.chain([last]).max().unwrap_or(0);
    }
    Ok(last)
}

/// Asks for the identity of a server: one run of it, and one line of its history.
pub(crate) fn identity() -> Pipeline {
    info::ask(&["server", "replication"])
}

/// The reply to [`identity`]; `None` if this user may not ask. An error says nothing about
/// the identity.
pub(crate) fn identify(replies: Vec<RedisResult<Value>>) -> Result<Option<String>, Error> {
    let info = Info::read(replies)?;
    let line = info.field("master_replid").unwrap_or_default();
    Ok(info.field("run_id").map(|run| format!("{run}/{line}")))
}
