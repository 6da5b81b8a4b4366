//! Plain pub/sub of other programs becomes events: `PUBLISH todos.created
//! '{…}'` is one durable event, whoever sent it.
//!
//! Every worker that listened would make an event of each message, so one
//! process at a time holds the bridge. Nothing is dropped in silence: what is
//! no known event, or no JSON object, is parked.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::echo::{Echoes, Heard};
use super::entry::as_json_text;
use super::link::Link;
use super::listen::{PING, timed};
use super::outage::Outage;
use super::{relay, reply, script};
use crate::broker::WorkerId;
use crate::db::Db;
use crate::error::Error;
use crate::event::MAX_DATA_BYTES;
use crate::ledger;
use crate::publish::Draft;

/// How long the bridge stays taken after its holder fell silent.
const HOLD_MS: &str = "5000";
const HOLD_FOR: Duration = Duration::from_millis(4500);
/// What the hold lasts longer than that.
const MARGIN: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for the database; more are dropped, counted and said.
const BUFFER: usize = 10_000;
const BATCH: usize = 200;
const LAST_BACKOFF: Duration = Duration::from_secs(5);

pub(super) struct Bridging {
    db: Db,
    link: Link,
    events: HashSet<String>,
    me: String,
    stop: CancellationToken,
    echoes: Echoes,
    listening: Outage,
}

/// What a message becomes.
enum Taken {
    Event(Draft),
    Parked {
        draft: Draft,
        reason: &'static str,
        error: String,
    },
}

impl Bridging {
    pub(super) fn new(
        db: Db,
        link: Link,
        events: Vec<String>,
        worker: &WorkerId,
        stop: CancellationToken,
        sends_out: bool,
    ) -> Self {
        Self {
            echoes: Echoes::new(link.clone(), stop.clone(), sends_out),
            db,
            link,
            events: events.into_iter().collect(),
            me: worker.to_string(),
            stop,
            listening: Outage::of("listening to plain pub/sub"),
        }
    }

    /// Holds the bridge or waits to; ends with `stop`.
    pub(super) async fn run(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            match self.hold().await {
                Ok(true) => self.work().await,
                Ok(false) => self.listening.over(),
                Err(error) => drop(self.listening.failed(&error)),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(EVERY.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
        }
        if let Err(error) = self.ask("release").await {
            tracing::debug!(error = ?error, "the bridge is not handed over: another takes it when the hold ends");
        }
    }

    async fn hold(&self) -> Result<bool, Error> {
        self.ask("hold").await
    }

    async fn ask(&self, what: &str) -> Result<bool, Error> {
        let bridge = self.link.keys().bridge();
        let call = script::Call {
            script: &script::HOLD,
            keys: vec![&bridge],
            args: vec![&self.me, HOLD_MS, what],
        };
        Ok(reply::int(&self.link.shared().script(call).await?) == Some(1))
    }

    /// Hears and stores until the hold, the connection or the worker ends.
    /// What was heard by then is still stored.
    async fn work(&self) {
        let (sink, stream) = match self.open().await {
            Ok(halves) => halves,
            Err(error) => {
                self.listening.failed(&error.into());
                return;
            }
        };
        self.listening.over();
        tracing::debug!(worker.id = %self.me, "holds the pub/sub bridge");
        let (sender, heard) = mpsc::channel(BUFFER);
        tokio::join!(self.hear(sink, stream, sender), self.store(heard));
    }

    async fn open(&self) -> Result<(PubSubSink, PubSubStream), redis::RedisError> {
        let mut pubsub = timed(self.link.client().get_async_pubsub()).await?;
        let (mut whole, mut families) = (BTreeSet::new(), BTreeSet::new());
        for event in &self.events {
            match event.split_once('.') {
                Some((family, _)) => families.insert(format!("{family}.*")),
                None => whole.insert(event.clone()),
            };
        }
        for family in families {
            timed(pubsub.psubscribe(family)).await?;
        }
        for event in whole {
            timed(pubsub.subscribe(event)).await?;
        }
        Ok(pubsub.split())
    }

    async fn hear(
        &self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
        sender: mpsc::Sender<Heard>,
    ) {
        let mut tick = tokio::time::interval(EVERY);
        let mut pinged = Instant::now();
        let mut held = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {
                    match self.hold().await {
                        Ok(true) => held = Instant::now(),
                        Err(_) if held.elapsed() < HOLD_FOR => {}
                        Ok(false) | Err(_) => return,
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        if timed(sink.ping::<redis::Value>()).await.is_err() {
                            return;
                        }
                    }
                }
                message = stream.next() => {
                    let Some(message) = message else { return };
                    // After a pause of this process another may hold the
                    // bridge, and have stored what waits in our socket.
                    if held.elapsed() > HOLD_FOR {
                        match self.hold().await {
                            Ok(true) => held = Instant::now(),
                            _ => return,
                        }
                    }
                    queue(&sender, &message);
                }
            }
        }
    }

    async fn store(&self, mut heard: mpsc::Receiver<Heard>) {
        let mut batch = Vec::with_capacity(BATCH);
        while heard.recv_many(&mut batch, BATCH).await > 0 {
            let mine = self.without_stolen(std::mem::take(&mut batch)).await;
            let others = self.echoes.without(mine).await;
            let taken: Vec<_> = others
                .into_iter()
                .filter_map(|heard| self.take(heard))
                .collect();
            self.keep(&taken).await;
        }
    }

    /// A hold lasts for some time after it was confirmed. Where another has it
    /// even so, Redis lost ours: the other hears the same and keeps it.
    async fn without_stolen(&self, mut heard: Vec<Heard>) -> Vec<Heard> {
        if matches!(self.hold().await, Ok(false)) {
            heard.retain(|heard| heard.at.elapsed() > MARGIN);
        }
        heard
    }

    fn take(
        &self,
        Heard {
            channel, payload, ..
        }: Heard,
    ) -> Option<Taken> {
        let text = String::from_utf8_lossy(&payload);
        let fault = if !self.events.contains(&channel) {
            Some(("unknown-event", format!("no event is named {channel:.100}")))
        } else if payload.len() > MAX_DATA_BYTES {
            Some((
                "malformed",
                format!(
                    "{} bytes are more than the {MAX_DATA_BYTES} allowed",
                    payload.len()
                ),
            ))
        } else if !is_object(&payload) {
            Some(("malformed", "the message is not a JSON object".to_owned()))
        } else {
            None
        };
        let data = if fault.is_some() {
            as_json_text(&text).get().to_owned()
        } else {
            text.into_owned()
        };
        let draft = Draft::foreign(&channel, data, relay::BRIDGED, &self.db);
        let taken = match (draft, fault) {
            (Ok(draft), None) => Taken::Event(draft),
            (Ok(draft), Some((reason, error))) => Taken::Parked {
                draft,
                reason,
                error,
            },
            (Err(error), _) => {
                tracing::error!(error = ?error, "a message on a plain channel could not be kept");
                return None;
            }
        };
        metrics::counter!("termitary_bridged_total").increment(1);
        Some(taken)
    }

    /// Stores a batch, however long the database takes; after `stop`, only a
    /// few times.
    async fn keep(&self, taken: &[Taken]) {
        let mut backoff = Duration::from_millis(100);
        let mut last_tries = 3;
        while let Err(error) = self.try_keep(taken).await {
            if self.stop.is_cancelled() {
                last_tries -= 1;
            }
            if last_tries == 0 {
                metrics::counter!("termitary_bridge_dropped_total").increment(taken.len() as u64);
                tracing::error!(error = ?error, messages = taken.len(), "messages of plain pub/sub are lost");
                return;
            }
            tracing::warn!(error = ?error, messages = taken.len(), "cannot store what came in from plain pub/sub; trying again");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    async fn try_keep(&self, taken: &[Taken]) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        let mut drafts = Vec::new();
        for one in taken {
            match one {
                Taken::Event(draft) => drafts.push(draft.clone()),
                Taken::Parked {
                    draft,
                    reason,
                    error,
                } => {
                    ledger::park_foreign(&mut tx, draft, reason, error).await?;
                }
            }
        }
        ledger::publish(&mut tx, self.db.source(), &drafts).await?;
        tx.commit_and_wake().await
    }
}

fn queue(sender: &mpsc::Sender<Heard>, message: &Msg) {
    if sender.try_send(Heard::new(message)).is_err() {
        metrics::counter!("termitary_bridge_dropped_total").increment(1);
        tracing::error!("the database cannot keep up with plain pub/sub: a message is lost");
    }
}

/// One JSON object, whole and well formed.
fn is_object(payload: &[u8]) -> bool {
    let starts = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    starts && serde_json::from_slice::<&serde_json::value::RawValue>(payload).is_ok()
}
