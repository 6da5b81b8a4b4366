//! Moves due deliveries from the ledger to their streams.
//!
//! Claim by row state, send, note the entries: three steps, and the process
//! may die between any two. A claim without an entry is found by the
//! reconciler; an entry without a note is found stale by its fence.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

use super::refused::Refused;
use crate::broker::redis::bridge::outgoing;
use crate::broker::redis::wire::keys::{Keys, StreamSet};
use crate::broker::redis::wire::link::Connection;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply;
use crate::broker::redis::{Redis, entry};
use crate::delivery::recorded_entry;
use crate::error::Error;
use crate::fault;
use crate::ledger;
use crate::ledger::relay::{Claimed, claim};
use crate::ledger::single_writer::alone;
use crate::ledger::{Row, handover};

/// The most commands of one pipeline.
pub(crate) const CHUNK: usize = 500;
const PAGE: usize = 500;
/// About how much payload one round holds in memory.
const PAGE_BYTES: i64 = 4 * 1024 * 1024;
/// Other housekeeping gets a turn after so many pages.
const TURN: usize = 20;
/// The time between two looks, unless a commit of this process asks for one.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// One command on its way, and the deliveries that it carries.
struct Sending {
    command: Cmd,
    stream: String,
    seq: i64,
    fresh: bool,
    rows: Vec<Row>,
}

/// Hands over deliveries that are due. Returns how long to rest.
pub(crate) async fn hand_over(
    redis: &Redis,
    sets: &[StreamSet],
    refused: &mut Refused,
) -> Result<Duration, Error> {
    if redis.config.bridge_mode().sends_out() {
        outgoing::send_unrouted(redis).await?;
    }
    for _ in 0..TURN {
        let routes: Vec<_> = sets
            .iter()
            .map(|set| set.route)
            .filter(|route| !refused.waits(*route))
            .collect();
        let now_us = redis.now_us();
        let heads = ledger::heads(&mut *redis.db.read().await?, &routes).await?;
        let due: Vec<_> = heads
            .iter()
            .filter(|(_, due)| *due <= now_us)
            .map(|(route, _)| *route)
            .collect();
        if due.is_empty() {
            return Ok(rest(redis, &heads, now_us));
        }
        // Before the claim: while Redis is unreachable, nothing is claimed.
        let mut held = redis.link.shared().get().await?;
        fault::point!("relay.before_claim");
        page(redis, &mut held, sets, &due, refused).await?;
    }
    Ok(Duration::ZERO)
}

fn rest(redis: &Redis, heads: &[(i64, i64)], now_us: i64) -> Duration {
    let next = heads.iter().map(|(_, due)| *due).min();
    match next {
        Some(next) if !redis.db.clock().is_manual() => {
            POLL.min(Duration::from_micros((next - now_us).max(1_000) as u64))
        }
        _ => POLL,
    }
}

async fn page(
    redis: &Redis,
    held: &mut Connection,
    sets: &[StreamSet],
    due: &[i64],
    refused: &mut Refused,
) -> Result<(), Error> {
    let mut tx = alone(&redis.db).await?;
    let now_us = redis.now_us();
    let until_us = redis.trusted_until_us();
    let claimed = claim(&mut tx, due, now_us, until_us, PAGE, PAGE_BYTES).await?;
    tx.commit().await?;
    fault::point!("relay.claimed");
    if redis.config.bridge_mode().sends_out() {
        let fresh = claimed
            .fresh
            .iter()
            .filter_map(|seq| claimed.events.get(seq));
        let sendings = sendings(redis.link.keys(), sets, &claimed);
        send(redis, held, sendings, refused).await?;
        outgoing::send_out(redis, fresh).await;
        return Ok(());
    }
    let sendings = sendings(redis.link.keys(), sets, &claimed);
    drop(claimed);
    send(redis, held, sendings, refused).await
}

fn sendings(keys: &Keys, sets: &[StreamSet], claimed: &Claimed) -> Vec<Sending> {
    let mut of_event: HashMap<i64, Vec<Row>> = HashMap::new();
    for row in &claimed.fresh_rows {
        of_event.entry(row.0).or_default().push(*row);
    }
    let fresh = claimed.fresh.iter().filter_map(|seq| {
        let event = claimed.events.get(seq)?;
        let stream = keys.main(&event.name);
        let command = entry::add(&stream, event, Some(*seq), None);
        let rows = of_event.remove(seq).unwrap_or_default();
        Some(Sending {
            command,
            stream,
            seq: *seq,
            fresh: true,
            rows,
        })
    });
    let mut sendings: Vec<_> = fresh.collect();
    let again_of: HashMap<_, _> = sets
        .iter()
        .filter_map(|set| Some((set.route, set.again()?.key.clone())))
        .collect();
    let again = claimed.again.iter().filter_map(|row| {
        let (seq, route, fence) = *row;
        let (event, stream) = (claimed.events.get(&seq)?, again_of.get(&route)?);
        let command = entry::add(stream, event, Some(seq), Some(fence));
        Some(Sending {
            command,
            stream: stream.to_string(),
            seq,
            fresh: false,
            rows: vec![*row],
        })
    });
    sendings.extend(again);
    // Redeliveries of an event come before younger events.
    sendings.sort_by_key(|sending| sending.seq);
    sendings
}

/// Sends in chunks. An entry that Redis refused is undone at once. If Redis did not
/// reply, the ledger looks again soon, not only when its trust ends.
async fn send(
    redis: &Redis,
    held: &mut Connection,
    mut sendings: Vec<Sending>,
    refused: &mut Refused,
) -> Result<(), Error> {
    while !sendings.is_empty() {
        let rest = sendings.split_off(sendings.len().min(CHUNK));
        let commands = sendings
            .iter_mut()
            .map(|sending| mem::take(&mut sending.command));
        let mut pipe: Pipeline = commands.collect();
        match redis.link.shared().many_on(held, &mut pipe).await {
            Ok(replies) => note(redis, &sendings, replies, refused).await?,
            Err(error) => {
                doubt(redis, &sendings).await?;
                undo(redis, rest.iter()).await?;
                return Err(error);
            }
        }
        sendings = rest;
    }
    Ok(())
}

async fn note(
    redis: &Redis,
    sendings: &[Sending],
    replies: Vec<RedisResult<Value>>,
    refused: &mut Refused,
) -> Result<(), Error> {
    let mut entries = Vec::new();
    let (mut back, mut why) = (Vec::new(), None);
    for (sending, reply) in sendings.iter().zip(replies) {
        match reply.map(reply::text) {
            Ok(Some(id)) => {
                entries.extend(
                    sending
                        .rows
                        .iter()
                        .map(|row| (*row, recorded_entry(&sending.stream, &id))),
                );
            }
            Ok(None) => {}
            Err(error) => {
                back.push(sending);
                why = Some(error);
            }
        }
    }
    fault::point!("relay.sent");
    let mut tx = redis.db.begin_own().await?;
    handover::record_entries(&mut tx, &entries).await?;
    tx.commit().await?;
    fault::point!("relay.recorded");
    metrics::counter!("termitary_relayed_total").increment(entries.len() as u64);
    refused.passed(entries.iter().map(|((_, route, _), _)| *route));
    let Some(error) = why else {
        return Ok(());
    };
    let routes: Vec<_> = back.iter().flat_map(|sending| &sending.rows).collect();
    refused.note(routes.iter().map(|(_, route, _)| *route), error);
    undo(redis, back.into_iter()).await
}

async fn undo<'a>(redis: &Redis, sendings: impl Iterator<Item = &'a Sending>) -> Result<(), Error> {
    let (mut fresh, mut all) = (Vec::new(), Vec::new());
    for sending in sendings {
        all.extend(sending.rows.iter().copied());
        fresh.extend(sending.fresh.then_some(sending.seq));
    }
    let mut tx = redis.db.begin_own().await?;
    handover::undo(&mut tx, &fresh, &all).await?;
    tx.commit().await
}

async fn doubt(redis: &Redis, sendings: &[Sending]) -> Result<(), Error> {
    let until_us = redis.doubted_until_us();
    let all: Vec<_> = sendings
        .iter()
        .flat_map(|sending| &sending.rows)
        .map(|row| (*row, until_us))
        .collect();
    let mut tx = redis.db.begin_own().await?;
    handover::trust(&mut tx, &all).await?;
    tx.commit().await
}
