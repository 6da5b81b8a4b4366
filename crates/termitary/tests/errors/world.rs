//! The service under test: a server behind the proxy, two workers, and a table
//! of effects that counts.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use termitary::Clock;
use termitary::broker::{Bridge, RedisConfig};
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};
use tokio::sync::watch;

use crate::proxy::Proxy;

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const LEASE: Duration = Duration::from_millis(900);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) n: i64,
}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

pub(crate) const MAIN: &str = "termitary:{things.made}:events";

/// Comes in from plain pub/sub.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bridged {
    pub(crate) n: i64,
}

impl Event for Bridged {
    const NAME: &'static str = "plain.bridged";
}

/// Every subscription writes its effect in the transaction that finishes it.
pub(crate) const SUBSCRIPTIONS: [&str; 3] = ["swift", "flaky", "narrow"];

async fn effect(ledger: &Ledger, who: &str, n: i64) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (who, n) VALUES ($1, $2)")
        .bind(who)
        .bind(n)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

async fn swift(event: Made, ledger: Ledger) -> HandlerResult {
    effect(&ledger, "swift", event.n).await
}

/// Fails the first time.
async fn flaky(event: Made, ledger: Ledger, Attempt(attempt): Attempt) -> HandlerResult {
    if attempt == 1 {
        return Err(HandlerError::from(std::io::Error::other("not yet")));
    }
    effect(&ledger, "flaky", event.n).await
}

/// True while `narrow` may continue.
type Gate = watch::Receiver<bool>;

/// Slow, and one at a time: while its gate is shut its entries wait on the
/// stream.
async fn narrow(event: Made, State(mut gate): State<Gate>, ledger: Ledger) -> HandlerResult {
    tokio::time::sleep(Duration::from_millis(20)).await;
    // The holder of the gate may be gone: it is open then.
    let _ = gate.wait_for(|open| *open).await;
    effect(&ledger, "narrow", event.n).await
}

async fn bridged(event: Bridged, ledger: Ledger) -> HandlerResult {
    effect(&ledger, "bridged", event.n).await
}

pub(crate) fn registry() -> Registry<Gate> {
    let soon = Retry::exponential(Duration::from_millis(20), Duration::from_millis(20));
    Registry::new()
        .on(subscribe("swift", swift))
        .on(subscribe("flaky", flaky).retry(soon))
        .on(subscribe("narrow", narrow).concurrency(1))
        .on(subscribe("bridged", bridged))
}

pub(crate) struct World {
    pub(crate) server: TestRedis,
    pub(crate) proxy: Proxy,
    pub(crate) db: TestDb,
    pub(crate) broker: Broker,
    config: RedisConfig,
    /// Somebody listens: the broker keeps a connection for it.
    pub(crate) heard: tokio::sync::broadcast::Receiver<termitary::broadcast::Message>,
    /// Opens and closes the gate of `narrow`.
    pub(crate) gate: watch::Sender<bool>,
    workers: Vec<TestWorker>,
    /// Events that were certainly published and are not known to be done.
    owed: BTreeSet<i64>,
    next: i64,
}

impl World {
    pub(crate) async fn new(workers: usize) -> Self {
        Self::with(Bridge::Both, workers).await
    }

    pub(crate) async fn with(bridge: Bridge, workers: usize) -> Self {
        Self::on(TestRedis::start(), bridge, workers).await
    }

    pub(crate) async fn on(server: TestRedis, bridge: Bridge, workers: usize) -> Self {
        let proxy = Proxy::start(server.port());
        let db = TestDb::open_with(Clock::system()).await;
        let mut tx = db.db().begin().await.unwrap();
        sqlx::query("CREATE TABLE effects (who TEXT NOT NULL, n INTEGER NOT NULL)")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let config = config(&proxy).bridge(bridge);
        let broker = broker(db.db(), config.clone());
        broker.register(&registry()).await.unwrap();
        let mut world = Self {
            server,
            proxy,
            db,
            heard: broker.broadcasts().subscribe(),
            broker,
            config,
            gate: watch::Sender::new(true),
            workers: Vec::new(),
            owed: BTreeSet::new(),
            next: 0,
        };
        for _ in 0..workers {
            world.add_worker().await;
        }
        world
    }

    /// With connections of its own, as another process would have.
    pub(crate) async fn add_worker(&mut self) {
        let broker = broker(self.db.db(), self.config.clone());
        let mut worker = TestWorker::start(broker, registry(), self.gate.subscribe()).await;
        worker.allow_leftovers();
        self.workers.push(worker);
    }

    /// Publishes in a transaction, which no state of Redis can prevent.
    pub(crate) async fn commit(&mut self) {
        self.next += 1;
        let mut tx = self.db.db().begin().await.unwrap();
        tx.publish(Made { n: self.next }).await.unwrap();
        tx.commit().await.unwrap();
        self.owed.insert(self.next);
    }

    /// Publishes on the stream; an error leaves the outcome unknown.
    pub(crate) async fn try_bus(&mut self) {
        self.next += 1;
        let n = self.next;
        match self.broker.bus().publish(Made { n }).await {
            Ok(_) => drop(self.owed.insert(n)),
            Err(error) => assert!(error.is_unavailable(), "{error:?}"),
        }
    }

    /// Every event that is owed has had its effect.
    pub(crate) async fn all_done(&mut self) -> bool {
        let Some(first) = self.owed.first() else {
            return true;
        };
        for who in SUBSCRIPTIONS {
            let done: BTreeSet<i64> =
                sqlx::query_scalar("SELECT DISTINCT n FROM effects WHERE who = $1 AND n >= $2")
                    .bind(who)
                    .bind(first)
                    .fetch_all(&mut *self.db.db().read().await.unwrap())
                    .await
                    .unwrap()
                    .into_iter()
                    .collect();
            if !self.owed.is_subset(&done) {
                return false;
            }
        }
        self.owed.clear();
        true
    }

    /// No effect happened twice.
    pub(crate) async fn assert_once(&self) {
        let twice: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT who, n, COUNT(*) FROM effects GROUP BY who, n HAVING COUNT(*) > 1",
        )
        .fetch_all(&mut *self.db.db().read().await.unwrap())
        .await
        .unwrap();
        assert_eq!(twice, [], "effects that happened more than once");
    }

    /// A message on a plain channel becomes an event.
    pub(crate) async fn assert_bridges(&mut self, when: &str) {
        let first = self.next + 1;
        eventually(&format!("the bridge works, {when}"), async || {
            self.next += 1;
            let text = format!("{{\"n\":{}}}", self.next);
            self.redis(&["PUBLISH", Bridged::NAME, &text]).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            let heard = "SELECT COUNT(*) FROM effects WHERE who = 'bridged' AND n >= $1";
            let heard = sqlx::query_scalar(heard).bind(first);
            0_i64
                < heard
                    .fetch_one(&mut *self.db.db().read().await.unwrap())
                    .await
                    .unwrap()
        })
        .await;
    }

    /// Returns whether a broadcast reaches the listeners.
    async fn broadcasts(&mut self) -> bool {
        while self.heard.try_recv().is_ok() {}
        let sent = self.broker.bus().broadcast(Made { n: 0 }).await;
        let heard = tokio::time::timeout(Duration::from_millis(200), self.heard.recv());
        sent.is_ok() && heard.await.is_ok_and(|heard| heard.is_ok())
    }

    /// Every loop does its work again.
    pub(crate) async fn assert_lives(&mut self, when: &str) {
        // A process takes some and dies: only housekeeping finds them.
        self.gate.send_replace(false);
        for _ in 0..8 {
            self.commit().await;
        }
        eventually(&format!("a dead worker holds some, {when}"), async || {
            let read = "XREADGROUP GROUP narrow dead COUNT 2 STREAMS";
            let words: Vec<_> = read.split(' ').chain([MAIN, ">"]).collect();
            self.redis(&words).await != redis::Value::Nil
        })
        .await;
        self.gate.send_replace(true);
        eventually(&format!("all is done, {when}"), async || {
            self.all_done().await
        })
        .await;
        eventually(&format!("streams are trimmed, {when}"), async || {
            self.redis(&["XLEN", MAIN]).await == redis::Value::Int(0)
        })
        .await;
        self.assert_bridges(when).await;
        eventually(&format!("broadcasts arrive, {when}"), async || {
            self.broadcasts().await
        })
        .await;
        self.assert_once().await;
    }

    /// A command of an operator, bypassing the proxy.
    pub(crate) async fn redis(&self, command: &[&str]) -> redis::Value {
        self.try_redis(command).await.unwrap()
    }

    pub(crate) async fn try_redis(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(("127.0.0.1", self.server.port())).unwrap();
        let config =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let mut conn = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut cmd = redis::cmd(command[0]);
        for part in &command[1..] {
            cmd.arg(*part);
        }
        cmd.query_async(&mut conn).await
    }

    pub(crate) async fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.stop().await;
        }
    }
}

pub(crate) fn broker(db: &Db, config: RedisConfig) -> Broker {
    Broker::builder(db.clone())
        .lease(LEASE)
        .redis(config)
        .unwrap()
}

pub(crate) fn config(proxy: &Proxy) -> RedisConfig {
    RedisConfig::host("127.0.0.1", proxy.port())
        .reconcile_after(Duration::from_millis(250))
        .bridge(Bridge::Both)
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Warnings and errors that were logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// From now on, as long as the guard lives.
    pub(crate) fn catch() -> (Self, tracing::subscriber::DefaultGuard) {
        let warnings = Self::default();
        let writer = warnings.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (warnings, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn take(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8_lossy(&taken).into_owned();
        // Errors that the handlers of these tests return on purpose.
        let ours = |line: &&str| line.contains("attempt ended") && line.contains("not yet");
        // Outcomes of single deliveries, not of a loop: on a slow machine more of these tests'
        // short leases run out.
        let of_one = |line: &&str| {
            line.contains("the lease was lost: another worker") || line.contains("settled too late")
        };
        let others = text.lines().filter(|line| !ours(line) && !of_one(line));
        others.map(str::to_owned).collect()
    }
}

impl Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
