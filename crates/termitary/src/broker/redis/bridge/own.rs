//! Recognises our own outgoing messages on plain channels: they are not new events.

use std::time::{Duration, Instant};

use redis::{Msg, RedisResult, Value};
use tokio_util::sync::CancellationToken;

use crate::broker::redis::bridge::outgoing;
use crate::broker::redis::wire::keys::{self, Keys};
use crate::broker::redis::wire::link::Link;
use crate::broker::redis::wire::{reply, script};
use crate::error::Error;
use crate::event::MAX_DATA_BYTES;
use crate::outage::Outage;

/// Time limit for asking whether messages are our own: well below the time for which Redis
/// remembers them.
const PATIENCE: Duration = Duration::from_secs(45);
/// Number of tries once the worker stops.
const LAST_TRIES: u32 = 3;
const LAST_WAIT: Duration = Duration::from_millis(500);

/// A message on a plain channel.
pub(crate) struct Heard {
    pub(crate) channel: String,
    /// Cut where it is larger than any event.
    pub(crate) payload: Vec<u8>,
    /// Its size in bytes.
    pub(crate) bytes: usize,
    pub(crate) at: Instant,
    /// Tells it from another message with the same text.
    token: u64,
}

impl Heard {
    pub(crate) fn new(message: &Msg) -> Self {
        let payload = message.get_payload_bytes();
        Self {
            channel: message.get_channel_name().to_owned(),
            payload: payload[..payload.len().min(MAX_DATA_BYTES + 1)].to_vec(),
            bytes: payload.len(),
            at: Instant::now(),
            token: fastrand::u64(..),
        }
    }

    /// Its approximate size in memory.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.payload.len()
    }

    /// The keys that count it as an echo, and mark it as one.
    fn keys(&self, keys: &Keys) -> (String, String) {
        let echo = keys.echo(&self.channel, &String::from_utf8_lossy(&self.payload));
        let echoed = keys::echoed(&echo, self.token);
        (echo, echoed)
    }
}

pub(crate) struct Echoes {
    link: Link,
    stop: CancellationToken,
    sends_out: bool,
    outage: Outage,
}

impl Echoes {
    pub(crate) fn new(link: Link, stop: CancellationToken, sends_out: bool) -> Self {
        Self {
            link,
            stop,
            sends_out,
            outage: Outage::of("telling our own messages on plain channels from others'"),
        }
    }

    /// Removes our own messages, which come back once each; the rest is from others.
    ///
    /// If Redis does not respond, retries for as long as Redis would remember: taking our own
    /// message for another's would publish an event twice.
    pub(crate) async fn without(&self, heard: Vec<Heard>) -> Vec<Heard> {
        let patience = Instant::now() + PATIENCE;
        let mut last_tries = LAST_TRIES;
        loop {
            let error = match self.ours(&heard).await {
                Ok(ours) => {
                    self.outage.over();
                    let others = heard.into_iter().zip(ours).filter(|(_, ours)| !ours);
                    return others.map(|(heard, _)| heard).collect();
                }
                Err(error) => error,
            };
            let mut wait = self.outage.failed(&error);
            if self.stop.is_cancelled() {
                last_tries -= 1;
                wait = wait.min(LAST_WAIT);
            }
            if last_tries == 0 || Instant::now() + wait > patience {
                return self.unsure(heard, &error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn ours(&self, heard: &[Heard]) -> Result<Vec<bool>, Error> {
        let keys: Vec<_> = heard.iter().map(|one| one.keys(self.link.keys())).collect();
        let calls = keys.iter().map(|(echo, echoed)| script::Call {
            script: &script::ECHO_IN,
            keys: vec![echo, echoed],
            args: vec![outgoing::ECHO_MS],
        });
        let calls: Vec<_> = calls.collect();
        let replies = self.link.shared().scripts(&calls).await?;
        let ours = |reply: RedisResult<Value>| Ok(reply::int(&reply?) == Some(1));
        replies.into_iter().map(ours).collect()
    }

    /// The origin of these messages will never be known. If this process sends nothing out, they
    /// are from others.
    fn unsure(&self, heard: Vec<Heard>, error: &Error) -> Vec<Heard> {
        if !self.sends_out {
            return heard;
        }
        metrics::counter!("termitary_bridge_dropped_total").increment(heard.len() as u64);
        tracing::error!(error = ?error, messages = heard.len(), "messages of plain pub/sub are dropped: Redis did not say in time which of them are our own");
        Vec::new()
    }
}
