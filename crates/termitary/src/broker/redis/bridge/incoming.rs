//! Plain pub/sub of other programs becomes events: `PUBLISH todos.created '{…}'` is one durable
//! event, whatever its sender.
//!
//! If every worker listened, each would make an event of each message; so one process at a time
//! holds the bridge. No message is dropped silently: unknown events and payloads that are not JSON
//! objects are parked. The log has one line for parked or lost messages at once, and then one a
//! minute with their number.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::own::{Echoes, Heard};
use crate::broker::redis::bridge::outgoing;
use crate::broker::redis::wire::broadcasts::{PING, timed};
use crate::broker::redis::wire::link::Link;
use crate::broker::redis::wire::{reply, script};
use crate::db::Db;
use crate::delivery::WorkerId;
use crate::draft::Draft;
use crate::error::Error;
use crate::event::{MAX_DATA_BYTES, cut_json_text};
use crate::ledger::single_writer::alone;
use crate::ledger::{self, Parked};
use crate::outage::{Outage, Tally};

/// Time for which the bridge stays taken after its holder fell silent.
const HOLD_MS: &str = "5000";
const HOLD_FOR: Duration = Duration::from_millis(4500);
/// Margin by which the hold lasts longer than that.
const MARGIN: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for the database, and their bytes; more are dropped, counted
/// and said.
const BUFFER: usize = 100_000;
const BUFFER_BYTES: usize = 64 * 1024 * 1024;
const BATCH: usize = 500;
const LAST_BACKOFF: Duration = Duration::from_secs(5);

pub(crate) struct Bridging {
    db: Db,
    link: Link,
    events: HashSet<String>,
    me: String,
    stop: CancellationToken,
    echoes: Echoes,
    listening: Outage,
    storing: Outage,
    /// Bytes of the messages that wait for the database.
    waiting: AtomicUsize,
    parked: Tally,
    lost: Tally,
    cut: Tally,
}

/// The result of a message.
enum Taken {
    Event(Draft),
    Parked(Parked),
}

impl Bridging {
    pub(crate) fn new(
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
            storing: Outage::of("storing what came in from plain pub/sub"),
            waiting: AtomicUsize::new(0),
            parked: Tally::of(
                "messages of plain pub/sub are parked: `dead list --parked` shows them",
            ),
            lost: Tally::of("messages of plain pub/sub are lost"),
            cut: Tally::of(
                "the connection that hears plain pub/sub ended: what is published until it hears again is lost",
            ),
        }
    }

    /// Holds the bridge or waits to; ends with `stop`.
    pub(crate) async fn take_turns(self: Arc<Self>) {
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
        for tally in [&self.parked, &self.lost, &self.cut] {
            tally.end();
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

    /// Receives and stores messages until the hold, the connection or the worker ends. Messages
    /// received by then are still stored.
    async fn work(&self) {
        let (sink, stream) = match self.open().await {
            Ok(halves) => halves,
            Err(error) => {
                self.listening.failed(&error);
                return;
            }
        };
        self.listening.over();
        tracing::debug!(worker.id = %self.me, "holds the pub/sub bridge");
        let (sender, heard) = mpsc::channel(BUFFER);
        tokio::join!(self.hear(sink, stream, sender), self.store(heard));
    }

    async fn open(&self) -> Result<(PubSubSink, PubSubStream), Error> {
        let mut pubsub = self.link.pubsub().await?;
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
                    for tally in [&self.parked, &self.lost, &self.cut] {
                        tally.tick();
                    }
                    match self.hold().await {
                        Ok(true) => held = Instant::now(),
                        Err(_) if held.elapsed() < HOLD_FOR => {}
                        Ok(false) | Err(_) => return,
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        if let Err(error) = timed(sink.ping::<redis::Value>()).await {
                            self.cut.add(1, &error);
                            return;
                        }
                    }
                }
                message = stream.next() => {
                    let Some(message) = message else {
                        self.cut.add(1, &"Redis closed it; it does so where more waits for us than its client-output-buffer-limit of pubsub allows, 32 MiB unless set");
                        return;
                    };
                    // After a pause of this process another one may hold the bridge, and have
                    // stored the messages that wait in our socket.
                    if held.elapsed() > HOLD_FOR {
                        match self.hold().await {
                            Ok(true) => held = Instant::now(),
                            _ => return,
                        }
                    }
                    self.queue(&sender, Heard::new(&message));
                }
            }
        }
    }

    async fn store(&self, mut heard: mpsc::Receiver<Heard>) {
        let mut batch = Vec::with_capacity(BATCH);
        while heard.recv_many(&mut batch, BATCH).await > 0 {
            let bytes = batch.iter().map(Heard::size).sum();
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            let mine = self.without_stolen(std::mem::take(&mut batch)).await;
            let others = self.echoes.without(mine).await;
            let taken: Vec<_> = others
                .into_iter()
                .filter_map(|heard| self.take(&heard))
                .collect();
            self.keep(&taken).await;
        }
    }

    /// A hold lasts for some time after it was confirmed. If another process has it even so, Redis
    /// lost ours: the other one receives and stores the same messages.
    async fn without_stolen(&self, mut heard: Vec<Heard>) -> Vec<Heard> {
        if matches!(self.hold().await, Ok(false)) {
            heard.retain(|heard| heard.at.elapsed() > MARGIN);
        }
        heard
    }

    /// Puts a message where it waits for the database, if there is room.
    fn queue(&self, sender: &mpsc::Sender<Heard>, heard: Heard) {
        let bytes = heard.size();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > BUFFER_BYTES || sender.try_send(heard).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.lose(1, &"the database cannot keep up");
        }
    }

    fn lose(&self, messages: usize, why: &dyn std::fmt::Display) {
        metrics::counter!("termitary_bridge_dropped_total").increment(messages as u64);
        self.lost.add(messages as u64, why);
    }

    fn take(&self, heard: &Heard) -> Option<Taken> {
        let fault = self.fault(heard);
        let text = String::from_utf8_lossy(&heard.payload);
        let data = if fault.is_some() {
            cut_json_text(&text, heard.bytes).get().to_owned()
        } else {
            text.into_owned()
        };
        let draft = Draft::foreign(&heard.channel, data, outgoing::BRIDGED, self.db.as_source());
        let taken = match (draft, fault) {
            (Ok(draft), None) => Taken::Event(draft),
            (Ok(draft), Some((reason, error))) => {
                self.parked.add(1, &error);
                Taken::Parked(Parked {
                    draft,
                    reason,
                    error,
                })
            }
            (Err(error), _) => {
                self.lose(1, &error);
                return None;
            }
        };
        metrics::counter!("termitary_bridged_total").increment(1);
        Some(taken)
    }

    /// Why a message is no event: the reason, and a sentence.
    fn fault(&self, heard: &Heard) -> Option<(&'static str, String)> {
        if !self.events.contains(&heard.channel) {
            let name = heard.channel.escape_debug();
            return Some(("unknown-event", format!("no event is named {name:.100}")));
        }
        if heard.bytes > MAX_DATA_BYTES {
            let bytes = heard.bytes;
            return Some((
                "malformed",
                format!("{bytes} bytes are more than the {MAX_DATA_BYTES} allowed"),
            ));
        }
        let object = is_object(&heard.payload);
        (!object).then(|| ("malformed", "the message is not a JSON object".to_owned()))
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
                self.lose(taken.len(), &error);
                return;
            }
            self.storing.failed(&error);
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
        self.storing.over();
    }

    async fn try_keep(&self, taken: &[Taken]) -> Result<(), Error> {
        let mut tx = alone(&self.db).await?;
        let (mut drafts, mut parked) = (Vec::new(), Vec::new());
        for one in taken {
            match one {
                Taken::Event(draft) => drafts.push(draft.clone()),
                Taken::Parked(one) => parked.push(one.clone()),
            }
        }
        ledger::park_foreign(&mut tx, parked).await?;
        ledger::publish(&mut tx, self.db.source(), &drafts).await?;
        tx.commit_and_wake().await
    }
}

/// One JSON object, whole and well formed.
fn is_object(payload: &[u8]) -> bool {
    let starts = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    starts && serde_json::from_slice::<&serde_json::value::RawValue>(payload).is_ok()
}
