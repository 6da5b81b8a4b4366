//! Carries events to their streams from the process that committed them.
//!
//! The transaction that publishes events leases them to the relay, so that no relay has to
//! find and claim them. Events that certainly did not reach their stream are given back at
//! once. If that is uncertain, or the process dies on the way, the reconciler sends them
//! again when the lease is over. It is half as long as a worker's: by then a worker that
//! received the event has either renewed the lease or taken a new fence.
//!
//! The entry of each event is recorded a moment later (`record`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{RedisResult, Value};
use tokio::runtime::Handle;

use super::due;
use super::record::{self, Sent};
use crate::broker::redis::bridge::outgoing;
use crate::broker::redis::wire::link::Connection;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply;
use crate::broker::redis::{Redis, entry};
use crate::clock::{forward, micros};
use crate::db::Conn;
use crate::error::Error;
use crate::event::Envelope;
use crate::fault;
use crate::ledger::workers::LIVE;
use crate::ledger::{self, Carrier, Committed, Trust, handover};
use crate::lock::Mutex;
use crate::outage::Outage;

/// The most events on their way; the relay moves more.
const MOST: usize = 10_000;
/// The time for which the names of subscribed events are cached. The relay moves events of
/// a missing name; an event of a name too many has no delivery.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// The time for which no event is taken while there is no connection.
const RECONNECT: Duration = Duration::from_secs(1);

pub(crate) struct Carrying {
    state: Mutex<State>,
    /// One at a time, so that events keep their order.
    turn: tokio::sync::Mutex<()>,
    outage: Outage,
}

#[derive(Default)]
struct State {
    loaded: VecDeque<Committed>,
    /// Loaded, or being sent.
    events: usize,
    rests_until: Option<Instant>,
    /// The names that workers subscribe to, and the time when they were read.
    reached: Option<(Arc<HashMap<String, u64>>, Instant)>,
}

impl Default for Carrying {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            outage: Outage::of("carrying events to their streams"),
        }
    }
}

impl Carrying {
    fn next(&self) -> Option<Batch<'_>> {
        let committed = self.state.lock().loaded.pop_front()?;
        Some(Batch {
            carrying: self,
            committed,
        })
    }

    fn rest(&self, wait: Duration) {
        self.state.lock().rests_until = Some(forward() + wait);
    }
}

impl State {
    /// Returns whether it takes no events now.
    fn rests(&self) -> bool {
        self.events >= MOST || self.rests_until.is_some_and(|until| forward() < until)
    }

    /// The cached names. An empty set is not cached: a first subscription must not wait.
    fn reached(&self) -> Option<Arc<HashMap<String, u64>>> {
        let (reached, at) = self.reached.as_ref()?;
        let known = !reached.is_empty() && forward() < *at + KNOWN_FOR;
        known.then(|| Arc::clone(reached))
    }
}

/// Events that are being sent. If dropped half-way, with its runtime, they are not on
/// their way any more.
struct Batch<'a> {
    carrying: &'a Carrying,
    committed: Committed,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.carrying.state.lock().events -= self.committed.events.len();
    }
}

#[async_trait]
impl Carrier for Redis {
    async fn trust(&self, conn: &mut Conn, runtime: &Handle) -> Result<Option<Trust>, Error> {
        if self.carrying.state.lock().rests() {
            return Ok(None);
        }
        if !self.link.shared().stands() {
            // A process that never talked to Redis may be gone in a moment.
            if self.link.shared().stood() {
                self.carrying.rest(RECONNECT);
                let link = self.link.clone();
                runtime.spawn(async move { link.shared().get().await.map(drop) });
            }
            return Ok(None);
        }
        let known = self.carrying.state.lock().reached();
        let reached = if let Some(reached) = known {
            reached
        } else {
            let since_us = self.now_us().saturating_sub(micros(LIVE));
            let reached = Arc::new(ledger::reached(conn, since_us).await?);
            self.carrying.state.lock().reached = Some((Arc::clone(&reached), forward()));
            reached
        };
        Ok(Some(Trust {
            reached,
            until_us: self.doubted_until_us(),
        }))
    }

    fn load(&self, committed: Committed) {
        let mut state = self.carrying.state.lock();
        state.events += committed.events.len();
        state.loaded.push_back(committed);
    }

    async fn carry(self: Arc<Self>) {
        let turn = self.carrying.turn.lock().await;
        while let Some(batch) = self.carrying.next() {
            match carry(&self, &batch.committed).await {
                Ok(()) => self.carrying.outage.over(),
                Err(error) => {
                    let wait = self.carrying.outage.failed(&error);
                    self.carrying.rest(wait);
                }
            }
        }
        drop(turn);
        record::soon(self);
    }

    async fn rest(self: Arc<Self>) {
        Arc::clone(&self).carry().await;
        record::now(&self).await;
    }
}

async fn carry(redis: &Redis, committed: &Committed) -> Result<(), Error> {
    let mut held = match redis.link.shared().get().await {
        Ok(held) => held,
        Err(error) => {
            // Nothing was sent.
            give_back(redis, committed, &committed.events).await?;
            return Err(error);
        }
    };
    fault::point!("carry.before_xadd");
    let mut refused = None;
    let mut events = &committed.events[..];
    while !events.is_empty() {
        let (chunk, rest) = events.split_at(events.len().min(due::CHUNK));
        if is_late(redis, committed) {
            return give_back(redis, committed, events).await;
        }
        let losses = redis.losses.number();
        let sending = async {
            let replies = send(redis, &mut held, chunk).await?;
            fault::point!("carry.sent");
            sent(redis, committed, chunk, replies, losses).await
        };
        match sending.await {
            Ok(why) => refused = why.or(refused),
            Err(error) => {
                // The outcome of this chunk is unknown.
                give_back(redis, committed, rest).await?;
                return Err(error);
            }
        }
        events = rest;
    }
    refused.map_or(Ok(()), Err)
}

/// Somebody may look after it when it arrives: then it could run there, and here.
fn is_late(redis: &Redis, committed: &Committed) -> bool {
    let margin = micros(redis.config.lease_time() / 8);
    redis.now_us() > committed.trust.until_us.saturating_sub(margin)
}

/// Sends the events of each name together: a reader that waits for their stream wakes once
/// and finds all of them. Returns the reply for each event.
async fn send(
    redis: &Redis,
    held: &mut Connection,
    events: &[(i64, Envelope)],
) -> Result<Vec<RedisResult<Value>>, Error> {
    let of_one_name = || events.chunk_by(|(_, one), (_, next)| one.name == next.name);
    let mut pipe = Pipeline::with_capacity(events.len() + 2);
    for same in of_one_name() {
        let stream = redis.link.keys().main(&same[0].1.name);
        let add = |(seq, event): &(i64, Envelope)| entry::add(&stream, event, Some(*seq), None);
        match same {
            [one] => pipe.add(add(one)),
            many => pipe.add_together(many.iter().map(add)),
        }
    }
    let mut replies = redis
        .link
        .shared()
        .many_on(held, &mut pipe)
        .await?
        .into_iter();
    let mut of_each = Vec::with_capacity(events.len());
    for same in of_one_name() {
        if same.len() > 1 {
            let together: Vec<_> = replies.by_ref().take(same.len() + 2).collect();
            of_each.extend(of_transaction(together));
        } else {
            of_each.extend(replies.next());
        }
    }
    Ok(of_each)
}

/// The reply to each command between `MULTI` and `EXEC`.
fn of_transaction(mut replies: Vec<RedisResult<Value>>) -> Vec<RedisResult<Value>> {
    let carried_out = replies.pop();
    let begun = !replies.is_empty() && replies.remove(0).is_ok();
    match carried_out {
        Some(Ok(Value::Array(each))) if begun => each
            .into_iter()
            .map(|reply| match reply {
                Value::ServerError(error) => Err(error.into()),
                reply => Ok(reply),
            })
            .collect(),
        // One was refused, and so all of them.
        Some(Err(error)) if begun => vec![Err(error); replies.len()],
        // No transactions here: each went by itself.
        _ => replies,
    }
}

/// Reads the reply for each event and gives back those that Redis refused. Returns the
/// reason.
async fn sent(
    redis: &Redis,
    committed: &Committed,
    events: &[(i64, Envelope)],
    replies: Vec<RedisResult<Value>>,
    losses: u64,
) -> Result<Option<Error>, Error> {
    let (mut sent, mut taken) = (Vec::new(), Vec::new());
    let (mut back, mut why) = (Vec::new(), None);
    let mut relayed = 0;
    let mut stream: (&str, Arc<str>) = ("", "".into());
    for (one, reply) in events.iter().zip(replies) {
        let (seq, event) = one;
        if stream.0 != event.name {
            stream = (&event.name, redis.link.keys().main(&event.name).into());
        }
        match reply.map(reply::text) {
            Ok(id) => {
                taken.push(event);
                relayed += committed
                    .trust
                    .reached
                    .get(&event.name)
                    .copied()
                    .unwrap_or(0);
                sent.extend(id.map(|id| Sent {
                    seq: *seq,
                    losses,
                    until_us: committed.trust.until_us,
                    stream: Arc::clone(&stream.1),
                    id,
                }));
            }
            Err(error) => {
                back.push(one.clone());
                why = Some(error.into());
            }
        }
    }
    redis.recording.add(sent);
    metrics::counter!("termitary_relayed_total").increment(relayed);
    if redis.config.bridge_mode().sends_out() {
        outgoing::send_out(redis, taken.into_iter()).await;
    }
    give_back(redis, committed, &back).await?;
    Ok(why)
}

/// To the relay, which sees when it can be sent.
async fn give_back(
    redis: &Redis,
    committed: &Committed,
    events: &[(i64, Envelope)],
) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let seqs: Vec<_> = events.iter().map(|(seq, _)| *seq).collect();
    let until_us = committed.trust.until_us;
    handover::give_back(&redis.db, seqs, until_us).await?;
    redis.db.announce();
    Ok(())
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, RedisError};

    use super::*;

    fn error(text: &'static str) -> RedisError {
        RedisError::from((ErrorKind::Client, text))
    }

    fn texts(replies: Vec<RedisResult<Value>>) -> Vec<String> {
        let text = |reply: RedisResult<Value>| match reply {
            Ok(value) => reply::text(value).unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        replies.into_iter().map(text).collect()
    }

    #[test]
    fn a_transaction_has_a_reply_for_each_command() {
        let simple = |text: &str| Ok(Value::SimpleString(text.to_owned()));
        let entry = |id: &str| Value::BulkString(id.into());
        let queued = || vec![simple("OK"), simple("QUEUED"), simple("QUEUED")];
        let with = |mut replies: Vec<_>, last| {
            replies.push(last);
            texts(of_transaction(replies))
        };
        let both = Value::Array(vec![entry("1-1"), entry("1-2")]);
        assert_eq!(with(queued(), Ok(both)), ["1-1", "1-2"]);
        let refused = with(queued(), Err(error("EXECABORT")));
        assert_eq!(refused.len(), 2);
        assert!(refused.iter().all(|text| text.contains("EXECABORT")));
        // A user who may not begin one had each command carried out.
        let direct = vec![Err(error("NOPERM")), Ok(entry("1-1")), Ok(entry("1-2"))];
        assert_eq!(with(direct, Err(error("no MULTI"))), ["1-1", "1-2"]);
    }
}
