//! What we sent out on plain channels comes back to us: it is no new event.

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

/// How long to ask whether messages are our own: well below the time that
/// Redis remembers it.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is still asked once the worker stops.
const LAST_TRIES: u32 = 3;
const LAST_WAIT: Duration = Duration::from_millis(500);

/// A message on a plain channel.
pub(crate) struct Heard {
    pub(crate) channel: String,
    /// Cut where it is larger than any event.
    pub(crate) payload: Vec<u8>,
    /// How many bytes it had.
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

    /// How much memory it takes, about.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.payload.len()
    }

    /// Where it is counted as an echo, and where it is marked as one.
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

    /// What we published ourselves comes back once each; the rest is others'.
    ///
    /// Where Redis does not say, it is asked again, for as long as it would
    /// know: taking an echo for another's message would publish an event twice.
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
        let answers = self.link.shared().scripts(&calls).await?;
        let ours = |answer: RedisResult<Value>| Ok(reply::int(&answer?) == Some(1));
        answers.into_iter().map(ours).collect()
    }

    /// Nobody will ever know whose these are. Where we send nothing out they
    /// are others'.
    fn unsure(&self, heard: Vec<Heard>, error: &Error) -> Vec<Heard> {
        if !self.sends_out {
            return heard;
        }
        metrics::counter!("termitary_bridge_dropped_total").increment(heard.len() as u64);
        tracing::error!(error = ?error, messages = heard.len(), "messages of plain pub/sub are dropped: Redis did not say in time which of them are our own");
        Vec::new()
    }
}
