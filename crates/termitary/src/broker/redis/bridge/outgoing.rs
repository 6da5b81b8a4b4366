//! Publishes events on plain channels, for programs that know nothing else.

use std::time::Duration;

use redis::{RedisResult, Value};

use crate::broker::redis::Redis;
use crate::broker::redis::relay::due::CHUNK;
use crate::broker::redis::wire::script;
use crate::clock::micros;
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger::relay as rows;
use crate::ledger::single_writer::alone;

/// The most events that are claimed at once, and the most claims of one round.
const PAGE: usize = 500;
const TURN: usize = 20;
/// The greatest age of an event without subscriptions that still goes out: switching the
/// bridge on must not send the history.
const OLDEST: Duration = Duration::from_mins(10);
/// The time for which Redis remembers a message that we sent out and have not heard yet.
pub(crate) const ECHO_MS: &str = "60000";

/// The source of events from plain pub/sub, which do not go out there again.
pub(crate) const BRIDGED: &str = "/termitary/bridge";

/// Sends out events without subscriptions, which are never handed over. They are claimed
/// first, so that one process sends each.
pub(crate) async fn send_unrouted(redis: &Redis) -> Result<(), Error> {
    let since_us = redis.now_us().saturating_sub(micros(OLDEST));
    for _ in 0..TURN {
        let mut reader = redis.db.read().await?;
        if !rows::has_unrouted(&mut reader, since_us).await? {
            break;
        }
        drop(reader);
        // Before the claim: while Redis is unreachable, nothing is claimed.
        redis.link.shared().get().await?;
        let mut tx = alone(&redis.db).await?;
        let events = rows::claim_unrouted(&mut tx, since_us, PAGE).await?;
        tx.commit().await?;
        send_out(redis, events.iter()).await;
    }
    Ok(())
}

/// Publishes on plain channels, for programs that know nothing else. At most
/// once: what fails here is not tried again.
pub(crate) async fn send_out<'a>(redis: &Redis, events: impl Iterator<Item = &'a Envelope>) {
    let events: Vec<_> = events.filter(|event| event.source != BRIDGED).collect();
    let echoes: Vec<_> = events
        .iter()
        .map(|event| redis.link.keys().echo(&event.name, event.data.get()))
        .collect();
    for (events, echoes) in events.chunks(CHUNK).zip(echoes.chunks(CHUNK)) {
        let calls: Vec<_> = events
            .iter()
            .zip(echoes)
            .map(|(event, echo)| script::Call {
                script: &script::ECHO_OUT,
                keys: vec![echo],
                args: vec![&event.name, event.data.get(), ECHO_MS],
            })
            .collect();
        let sent = redis.link.shared().scripts(&calls).await;
        let all = |replies: Vec<RedisResult<Value>>| {
            Ok(replies.into_iter().collect::<Result<Vec<_>, _>>()?)
        };
        match sent.and_then(all) {
            Ok(_) => redis.unsent.over(),
            Err(error) => drop(redis.unsent.failed(&error)),
        }
    }
}
