//! Takes over what dead workers held, and gives back what a leaving one was
//! handed and never saw.
//!
//! An entry is taken when it has been idle for a lease, and was watched from here
//! for half of one without being renewed (`graves`).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};

use super::expired::{self, Graves};
use super::groups;
use crate::broker::redis::Redis;
use crate::broker::redis::deliver::settle::{self, Over};
use crate::broker::redis::deliver::{admit, reader};
use crate::broker::redis::entry::{self, Carried};
use crate::broker::redis::wire::keys::{self, Lane, Stream};
use crate::broker::redis::wire::reply::{self, Raw};
use crate::broker::redis::wire::script;
use crate::db::Tx;
use crate::delivery::{Claim, EntryAddress, Origin, Route, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::ledger::Row;
use crate::ledger::{self, Whose};

const PAGE: usize = 100;
/// Other housekeeping gets a turn after so many entries of one stream.
const TURN: usize = 500;

/// Where entries go whose worker is gone: not the worker's own name, or its
/// lane would read them back as its own.
fn undertaker(worker: &WorkerId) -> WorkerId {
    format!("{worker}.takeover").into()
}

/// Takes what is ripe; where nothing is, looks. Answers whether there may be more.
pub(crate) async fn run(
    redis: &Redis,
    worker: &WorkerId,
    lanes: &[Lane],
    graves: &mut Graves,
) -> Result<bool, Error> {
    let (mut more, mut failed) = (false, None);
    let us = undertaker(worker);
    if graves.ripe.is_empty() {
        if expired::bereft(redis, &us, lanes).await? {
            redis.loses();
        }
        failed = expired::look(redis, lanes, graves).await?;
    }
    let all = keys::streams(lanes)
        .map(|(lane, stream)| ((lane.route, stream.key.clone()), (lane, stream)));
    let all: HashMap<_, _> = all.collect();
    for (place, mut ids) in std::mem::take(&mut graves.ripe) {
        let Some((lane, stream)) = all.get(&place) else {
            continue; // dropped meanwhile
        };
        match take(redis, lane, stream, &us, &mut ids).await {
            Ok(()) if ids.is_empty() => {}
            Ok(()) => {
                more = true;
                graves.ripe.insert(place, ids);
            }
            // One stream in trouble does not keep the others' dead unburied.
            Err(error) if redis.link.shared().stands() => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(more),
    }
}

/// Takes entries of one stream, page after page, until it is through or other
/// housekeeping gets a turn.
async fn take(
    redis: &Redis,
    lane: &Lane,
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
        let mut args: Vec<&str> = vec![&lane.group, us, &idle];
        args.extend(page.iter().map(String::as_str));
        let call = script::Call {
            script: &script::TAKE,
            keys: vec![&stream.key],
            args,
        };
        let mut taken = reply::list(redis.link.shared().script(call).await?).into_iter();
        let entries = taken.next().map(reply::entries).unwrap_or_default();
        if taken.next().is_some_and(|gone| reply::int(&gone) > Some(0)) {
            redis.loses();
        }
        bury(redis, lane, stream, us, entries, End::Crashed).await?;
    }
    Ok(())
}

fn claim_idle(
    lane: &Lane,
    stream: &Stream,
    us: &WorkerId,
    from: &str,
    idle: Duration,
) -> redis::Cmd {
    let mut cmd = redis::cmd("XAUTOCLAIM");
    let idle = idle.as_millis() as u64;
    cmd.arg(&*stream.key)
        .arg(&*lane.group)
        .arg(&**us)
        .arg(idle)
        .arg(from)
        .arg("COUNT")
        .arg(PAGE);
    cmd
}

struct Page {
    next: String,
    entries: Vec<Raw>,
}

impl Page {
    fn read(answer: Value) -> Self {
        let mut parts = reply::list(answer).into_iter();
        let next = parts
            .next()
            .and_then(reply::text)
            .unwrap_or_else(|| "0-0".to_owned());
        let entries = parts.next().map(reply::entries).unwrap_or_default();
        Self { next, entries }
    }
}

/// Why entries are taken from their worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its lease ended: a crash is counted.
    Crashed,
    /// It left in order and never saw them.
    Unseen,
}

/// Makes the ledger owe these deliveries again, then ends the entries.
async fn bury(
    redis: &Redis,
    lane: &Lane,
    stream: &Stream,
    owner: &WorkerId,
    raws: Vec<Raw>,
    end: End,
) -> Result<(), Error> {
    if raws.is_empty() {
        return Ok(());
    }
    fault::point!("takeover.claimed");
    let now_us = redis.now_us();
    let mut tx = redis.db.begin().await?;
    let mut keys = Vec::new();
    let mut over = Vec::with_capacity(raws.len());
    for raw in &raws {
        let entry = lane.address(stream, &raw.id);
        let mut counts = false;
        match raw.fields.as_ref().map(|_| entry::decode(stream, raw)) {
            Some(Ok(carried)) => match row(&mut tx, lane, owner, &entry, carried, now_us).await? {
                Found::Owed(row) => keys.push(row),
                Found::Noted => counts = true,
                Found::Over => {}
            },
            Some(Err(unreadable)) => {
                admit::park_in(&mut tx, lane, owner, &entry, &unreadable, now_us).await?;
            }
            // Deleted: the reconciler sends again what is owed.
            None => {}
        }
        over.push(Over { entry, counts });
    }
    if end == End::Crashed {
        let taken = ledger::crash_held(&mut tx, &keys, now_us).await?;
        if taken > 0 {
            metrics::counter!("termitary_leases_expired_total").increment(taken);
            tracing::warn!(subscription = %lane.group, deliveries = taken, "took back the leases of a worker that is gone");
        }
    } else {
        ledger::handover::owe(&mut tx, &keys).await?;
    }
    tx.commit_and_wake().await?;
    fault::point!("takeover.buried");
    settle::end(redis, owner, &over).await?;
    fault::point!("takeover.ended");
    Ok(())
}

/// Brings back to the ledger what is left for a subscription on a stream that it no
/// longer reads: what nobody was given, then what somebody was given.
pub(crate) async fn clear(
    redis: &Redis,
    worker: &WorkerId,
    lane: &Lane,
    stream: &Stream,
) -> Result<(), Error> {
    let us = undertaker(worker);
    let ask = async |cmd: redis::Cmd| -> Result<Option<Value>, Error> {
        let mut pipe = redis::pipe();
        let mut answers = redis.link.shared().many(pipe.add_command(cmd)).await?;
        match answers.pop() {
            Some(Ok(answer)) => Ok(Some(answer)),
            Some(Err(error)) if !groups::is_gone(&error) => Err(error.into()),
            _ => Ok(None),
        }
    };
    while let Some(answer) = ask(reader::read(lane, stream, &us, PAGE, ">")).await? {
        let entries = reader::entries_of(answer);
        if entries.is_empty() {
            break;
        }
        bury(redis, lane, stream, &us, entries, End::Unseen).await?;
    }
    let mut from = "0-0".to_owned();
    while let Some(answer) = ask(claim_idle(lane, stream, &us, &from, Duration::ZERO)).await? {
        let page = Page::read(answer);
        bury(redis, lane, stream, &us, page.entries, End::Unseen).await?;
        if page.next == "0-0" {
            break;
        }
        from = page.next;
    }
    Ok(())
}

/// Takes back suspects from dead workers. They are leased from the ledger
/// itself, and no stream knows of them.
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

/// What the ledger knows of an entry whose worker is gone.
enum Found {
    /// Its row.
    Owed(Row),
    /// It is finished, and counts when its entry ends.
    Noted,
    /// How it ended.
    Over,
}

/// Asks the ledger; what lived on the stream only is adopted.
async fn row(
    tx: &mut Tx,
    lane: &Lane,
    owner: &WorkerId,
    entry: &EntryAddress,
    carried: Carried,
    now_us: i64,
) -> Result<Found, Error> {
    let noted = entry.recorded();
    if let Some((seq, fence)) = carried.ledger {
        let row = (seq, lane.route, fence);
        let fence = ledger::entries::fence(tx, row, carried.envelope.id, &noted).await?;
        return Ok(fence.map_or(Found::Over, |fence| Found::Owed((seq, lane.route, fence))));
    }
    let envelope = Arc::new(carried.envelope);
    let claim = Claim {
        event: envelope.id,
        route: lane.route,
        worker: owner.clone(),
        fence: 1,
        origin: Origin::Stream {
            envelope: Arc::clone(&envelope),
            entry: entry.clone(),
        },
    };
    let adopted = ledger::adopt(tx, &claim, &envelope, now_us).await?;
    if let Some(row) = adopted.as_ref().and_then(Claim::row) {
        return Ok(Found::Owed(row));
    }
    let known = ledger::entries::adopted(tx, lane.route, &[envelope.id]).await?;
    let uncounted = known.get(&envelope.id).and_then(Option::as_ref);
    Ok(match uncounted {
        Some(entry) if *entry == noted => Found::Noted,
        _ => Found::Over,
    })
}

/// A worker leaves in order: gives back what it was handed unseen, and is
/// forgotten wherever it holds nothing.
pub(crate) async fn leave(redis: &Redis, worker: &WorkerId, routes: &[Route]) -> Result<(), Error> {
    redis.drop_readers(worker);
    let lanes: Vec<_> = routes
        .iter()
        .map(|route| redis.link.keys().lane(route))
        .collect();
    let us = undertaker(worker);
    let all: Vec<_> = keys::streams(&lanes).collect();
    let mut pipe = redis::pipe();
    for (lane, stream) in &all {
        pipe.add_command(reader::read(lane, stream, worker, PAGE, "0"));
    }
    // What is held now and no longer then was ended meanwhile.
    let held = redis.live.held(worker);
    let answers = redis.link.shared().many(&mut pipe).await?;
    for ((lane, stream), answer) in all.iter().zip(answers) {
        give_back(redis, lane, stream, worker, answer, &held).await?;
    }
    // Many lanes may read one stream.
    let mut consumers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (lane, stream) in all {
        let names = [&lane.group, worker, &lane.group, &us].map(|name| &**name);
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
    redis.live.forget(worker);
    Ok(())
}

/// What was handed to this worker of one stream, page after page from the first.
async fn give_back(
    redis: &Redis,
    lane: &Lane,
    stream: &Stream,
    worker: &WorkerId,
    mut answer: RedisResult<Value>,
    held: &HashSet<EntryAddress>,
) -> Result<(), Error> {
    loop {
        let Ok(page) = answer else {
            return Ok(()); // the group is gone: nothing to give back
        };
        let mut entries = reader::entries_of(page);
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let next = reader::read(lane, stream, worker, PAGE, &last.id);
        redis.live.without_those(worker, held, &mut entries, |raw| {
            lane.address(stream, &raw.id)
        });
        bury(redis, lane, stream, worker, entries, End::Unseen).await?;
        let mut pipe = redis::pipe();
        answer = redis
            .link
            .shared()
            .many(pipe.add_command(next))
            .await?
            .remove(0);
    }
}

/// How often to look: a dead worker's lease is over after one lease and this.
pub(crate) fn every(redis: &Redis) -> Duration {
    redis.config.lease_time() / 6
}
