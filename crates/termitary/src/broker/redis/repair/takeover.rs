//! Takes over the deliveries of dead workers, and gives back those that a leaving worker
//! was given and never saw.
//!
//! An entry is taken when it has been idle for a lease, and this process has watched it for
//! half of one without a renewal (`expired`).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};

use super::expired::{self, Expired};
use super::groups;
use crate::broker::redis::Redis;
use crate::broker::redis::deliver::settle::{self, EndedEntry};
use crate::broker::redis::deliver::{admit, reader};
use crate::broker::redis::entry;
use crate::broker::redis::standing::{self, ReadEntry, Standing, stream_claim};
use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::{self, Stream, StreamSet};
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply::{self, Raw};
use crate::broker::redis::wire::script;
use crate::delivery::{Claim, EntryAddress, Route, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::ledger::single_writer::alone;
use crate::ledger::{self, Whose};

const PAGE: usize = 100;
/// Other housekeeping gets a turn after so many entries of one stream.
const TURN: usize = 500;

/// The consumer that takes over entries: not the worker's own name, or its lane would read
/// them back as its own.
fn takeover_id(worker: &WorkerId) -> WorkerId {
    format!("{worker}.takeover").into()
}

/// Takes entries whose lease is over, or looks for them if it knows of none. Returns whether
/// there may be more.
pub(crate) async fn take_expired(
    redis: &Redis,
    worker: &WorkerId,
    sets: &[StreamSet],
    expired: &mut Expired,
) -> Result<bool, Error> {
    let (mut more, mut failed) = (false, None);
    let us = takeover_id(worker);
    if expired.ripe.is_empty() {
        if expired::has_lost_entries(redis, &us, sets).await? {
            redis.losses.entries_gone();
        }
        failed = expired::look(redis, sets, expired).await?;
    }
    let all =
        keys::streams(sets).map(|(set, stream)| ((set.route, stream.key.clone()), (set, stream)));
    let all: HashMap<_, _> = all.collect();
    for (place, mut ids) in std::mem::take(&mut expired.ripe) {
        let Some((set, stream)) = all.get(&place) else {
            continue; // dropped meanwhile
        };
        match take(redis, set, stream, &us, &mut ids).await {
            Ok(()) if ids.is_empty() => {}
            Ok(()) => {
                more = true;
                expired.ripe.insert(place, ids);
            }
            // One failing stream does not keep the others waiting.
            Err(error) if redis.link.shared().stands() => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(more),
    }
}

/// Takes entries of one stream, page after page, until none is left or other housekeeping
/// gets a turn.
async fn take(
    redis: &Redis,
    set: &StreamSet,
    stream: &Stream,
    us: &WorkerId,
    ids: &mut VecDeque<String>,
) -> Result<(), Error> {
    let idle = redis.config.lease_time().as_millis().to_string();
    for _ in 0..TURN / PAGE {
        let page: Vec<_> = ids.drain(..ids.len().min(PAGE)).collect();
        if page.is_empty() {
            break;
        }
        let mut args: Vec<&str> = vec![&set.group, us, &idle];
        args.extend(page.iter().map(String::as_str));
        let call = script::Call {
            script: &script::TAKE,
            keys: vec![&stream.key],
            args,
        };
        let mut taken = reply::list(redis.link.shared().script(call).await?).into_iter();
        let entries = taken.next().map(reply::entries).unwrap_or_default();
        if taken.next().is_some_and(|gone| reply::int(&gone) > Some(0)) {
            redis.losses.entries_gone();
        }
        return_to_ledger(redis, set, stream, us, entries, Reason::Crashed).await?;
    }
    Ok(())
}

struct Page {
    next: String,
    entries: Vec<Raw>,
}

impl Page {
    fn read(reply: Value) -> Self {
        let mut parts = reply::list(reply).into_iter();
        let next = parts
            .next()
            .and_then(reply::text)
            .unwrap_or_else(|| "0-0".to_owned());
        let entries = parts.next().map(reply::entries).unwrap_or_default();
        Self { next, entries }
    }
}

/// The reason why entries are taken from their worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Its lease ended: a crash is counted.
    Crashed,
    /// It left in order and never saw them.
    Unseen,
}

/// Makes the ledger owe the deliveries of these entries again, then ends the entries.
async fn return_to_ledger(
    redis: &Redis,
    set: &StreamSet,
    stream: &Stream,
    owner: &WorkerId,
    raws: Vec<Raw>,
    reason: Reason,
) -> Result<(), Error> {
    if raws.is_empty() {
        return Ok(());
    }
    fault::point!("takeover.claimed");
    let now_us = redis.now_us();
    let mut tx = alone(&redis.db).await?;
    let mut readable = Vec::with_capacity(raws.len());
    let mut ended = Vec::with_capacity(raws.len());
    for raw in &raws {
        let address = set.address(stream, &raw.id);
        match raw.fields.as_ref().map(|_| entry::decode(stream, raw)) {
            Some(Ok(carried)) => {
                readable.push(ReadEntry {
                    address,
                    carried,
                    seen: true,
                });
                continue;
            }
            Some(Err(unreadable)) => {
                admit::park_in(&mut tx, set, owner, &address, &unreadable, now_us).await?;
            }
            // Deleted: the reconciler sends again what is owed.
            None => {}
        }
        ended.push(EndedEntry::quiet(address));
    }
    let standings = standing::standing(&mut tx, set.route, &readable, 0).await?;
    let mut owed = Vec::with_capacity(readable.len());
    for (entry, standing) in readable.into_iter().zip(standings) {
        match standing {
            Standing::Leased { row, .. } => owed.push(row),
            Standing::StreamOnly => {
                let envelope = Arc::new(entry.carried.envelope);
                let claim = stream_claim(set.route, owner, &envelope, entry.address.clone());
                let adopted = ledger::adopt(&mut tx, &claim, &envelope, now_us).await?;
                owed.extend(adopted.as_ref().and_then(Claim::row));
            }
            Standing::Uncounted => {
                ended.push(EndedEntry::counted(entry.address));
                continue;
            }
            Standing::Over | Standing::Orphan => {}
        }
        ended.push(EndedEntry::quiet(entry.address));
    }
    match reason {
        Reason::Crashed => {
            let taken = ledger::crash_held(&mut tx, &owed, now_us).await?;
            if taken > 0 {
                metrics::counter!("termitary_leases_expired_total").increment(taken);
                tracing::warn!(subscription = %set.group, deliveries = taken, "took back the leases of a worker that is gone");
            }
        }
        Reason::Unseen => drop(ledger::handover::owe(&mut tx, &owed).await?),
    }
    tx.commit_and_wake().await?;
    fault::point!("takeover.owed");
    settle::end(redis, owner, &ended).await?;
    fault::point!("takeover.ended");
    Ok(())
}

/// Returns to the ledger the entries of a stream that a subscription no longer reads: first
/// those that were not given out, then those that were.
pub(crate) async fn clear(
    redis: &Redis,
    worker: &WorkerId,
    set: &StreamSet,
    stream: &Stream,
) -> Result<(), Error> {
    let us = takeover_id(worker);
    let ask = async |cmd: redis::Cmd| -> Result<Option<Value>, Error> {
        let mut pipe = Pipeline::from_iter([cmd]);
        match redis.link.shared().many(&mut pipe).await?.pop() {
            Some(Ok(reply)) => Ok(Some(reply)),
            Some(Err(error)) if !groups::is_gone(&error) => Err(error.into()),
            _ => Ok(None),
        }
    };
    while let Some(reply) = ask(commands::read(set, stream, &us, PAGE, ">")).await? {
        let entries = reader::entries_of(reply);
        if entries.is_empty() {
            break;
        }
        return_to_ledger(redis, set, stream, &us, entries, Reason::Unseen).await?;
    }
    let mut from = "0-0".to_owned();
    while let Some(reply) = ask(commands::claim(set, stream, &us, &from, PAGE)).await? {
        let page = Page::read(reply);
        return_to_ledger(redis, set, stream, &us, page.entries, Reason::Unseen).await?;
        if page.next == "0-0" {
            break;
        }
        from = page.next;
    }
    Ok(())
}

/// Takes back suspects from dead workers. They are leased from the ledger itself and are
/// on no stream.
pub(crate) async fn suspects(redis: &Redis) -> Result<(), Error> {
    let taken = redis.suspects.reclaim(&redis.db, Whose::Suspects).await?;
    if taken > 0 {
        metrics::counter!("termitary_leases_expired_total").increment(taken);
        tracing::warn!(
            deliveries = taken,
            "a worker is gone that ran a suspect alone"
        );
    }
    Ok(())
}

/// A worker leaves in order: gives back entries that it never saw, and deletes the worker's
/// consumers that hold nothing.
pub(crate) async fn leave(redis: &Redis, worker: &WorkerId, routes: &[Route]) -> Result<(), Error> {
    redis.drop_readers(worker);
    let sets: Vec<_> = routes
        .iter()
        .map(|route| redis.link.keys().stream_set(route))
        .collect();
    let us = takeover_id(worker);
    let all: Vec<_> = keys::streams(&sets).collect();
    let reads = all
        .iter()
        .map(|(set, stream)| commands::read(set, stream, worker, PAGE, "0"));
    let mut pipe: Pipeline = reads.collect();
    // Entries held now and no longer after the read were settled in between.
    let held = redis.leased.of(worker);
    let replies = redis.link.shared().many(&mut pipe).await?;
    for ((set, stream), reply) in all.iter().zip(replies) {
        give_back(redis, set, stream, worker, reply, &held).await?;
    }
    // Many sets may read one stream.
    let mut consumers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (set, stream) in all {
        let names = [&set.group, worker, &set.group, &us].map(|name| &**name);
        consumers.entry(&stream.key).or_default().extend(names);
    }
    let calls: Vec<_> = consumers
        .into_iter()
        .map(|(stream, names)| script::Call {
            script: &script::LEAVE,
            keys: vec![stream],
            args: names,
        })
        .collect();
    redis.link.shared().scripts(&calls).await?;
    redis.leased.remove_worker(worker);
    Ok(())
}

/// Gives back the entries that this worker was given of one stream, page after page.
async fn give_back(
    redis: &Redis,
    set: &StreamSet,
    stream: &Stream,
    worker: &WorkerId,
    mut reply: RedisResult<Value>,
    held: &HashSet<EntryAddress>,
) -> Result<(), Error> {
    loop {
        let Ok(page) = reply else {
            return Ok(()); // the group is gone: nothing to give back
        };
        let mut entries = reader::entries_of(page);
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let next = commands::read(set, stream, worker, PAGE, &last.id);
        redis
            .leased
            .without_settled(worker, held, &mut entries, |raw| {
                set.address(stream, &raw.id)
            });
        return_to_ledger(redis, set, stream, worker, entries, Reason::Unseen).await?;
        let mut pipe = Pipeline::from_iter([next]);
        reply = redis.link.shared().many(&mut pipe).await?.remove(0);
    }
}

/// The time between two looks: a dead worker is noticed after a lease and this.
pub(crate) fn every(redis: &Redis) -> Duration {
    redis.config.lease_time() / 6
}
