//! The service under test: events, handlers that record their runs, and any number of workers in
//! one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use termitary::Clock;
use termitary::broker::RedisConfig;
use termitary::inspect::{Status, SubscriptionStatus};
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};
use tokio::sync::Semaphore;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) n: u32,
}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

/// Number of runs of each event, per subscription.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Inner>);

struct Inner {
    runs: Mutex<BTreeMap<(String, u32), u32>>,
    /// Handlers of `slow` wait for it, each for one permit; once it is closed
    /// none waits.
    barrier: Semaphore,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            runs: Mutex::default(),
            barrier: Semaphore::new(0),
        }
    }
}

impl Seen {
    pub(crate) fn note(&self, subscription: &str, n: u32) {
        *self
            .0
            .runs
            .lock()
            .unwrap()
            .entry((subscription.to_owned(), n))
            .or_default() += 1;
    }

    pub(crate) fn runs(&self, subscription: &str, n: u32) -> u32 {
        self.0
            .runs
            .lock()
            .unwrap()
            .get(&(subscription.to_owned(), n))
            .copied()
            .unwrap_or(0)
    }

    /// Number of different events that a subscription has seen, and of runs.
    pub(crate) fn total(&self, subscription: &str) -> (usize, u32) {
        let runs = self.0.runs.lock().unwrap();
        let of = || runs.iter().filter(|((name, _), _)| name == subscription);
        (of().count(), of().map(|(_, n)| n).sum())
    }

    /// Lets so many through the gate, and leaves it closed.
    pub(crate) fn let_through(&self, runs: usize) {
        self.0.barrier.add_permits(runs);
    }

    pub(crate) fn open_gate(&self) {
        self.0.barrier.close();
    }
}

async fn first(event: Made, State(seen): State<Seen>) -> HandlerResult {
    seen.note("first", event.n);
    Ok(())
}

async fn second(event: Made, ledger: Ledger, State(seen): State<Seen>) -> HandlerResult {
    let tx = ledger.begin().await?;
    tx.commit().await?;
    seen.note("second", event.n);
    Ok(())
}

/// Goes on for some leases after its commit.
async fn lasting(event: Made, ledger: Ledger, State(seen): State<Seen>) -> HandlerResult {
    ledger.begin().await?.commit().await?;
    pause(2000).await;
    seen.note("lasting", event.n);
    Ok(())
}

/// Waits until the test opens the gate.
async fn slow(event: Made, State(seen): State<Seen>) -> HandlerResult {
    seen.note("slow.started", event.n);
    if let Ok(permit) = seen.0.barrier.acquire().await {
        permit.forget();
    }
    seen.note("slow", event.n);
    Ok(())
}

/// Fails the first time.
async fn flaky(event: Made, State(seen): State<Seen>) -> HandlerResult {
    seen.note("flaky", event.n);
    if seen.runs("flaky", event.n) == 1 {
        return Err(HandlerError::retry_after(
            Duration::from_millis(50),
            "not yet",
        ));
    }
    Ok(())
}

/// Gives up on its first run.
async fn hopeless(event: Made, State(seen): State<Seen>) -> HandlerResult {
    seen.note("hopeless", event.n);
    if seen.runs("hopeless", event.n) == 1 {
        return Err(HandlerError::permanent("never"));
    }
    Ok(())
}

pub(crate) fn registry(names: &[&str]) -> Registry<Seen> {
    names
        .iter()
        .fold(Registry::new(), |registry, &name| match name {
            "first" => registry.on(subscribe("first", first)),
            "second" => registry.on(subscribe("second", second)),
            "lasting" => registry.on(subscribe("lasting", lasting)),
            "slow" => registry.on(subscribe("slow", slow).concurrency(4)),
            "flaky" => registry.on(subscribe("flaky", flaky)),
            "hopeless" => registry.on(subscribe("hopeless", hopeless)),
            other => panic!("no handler {other}"),
        })
}

pub(crate) struct World {
    pub(crate) server: TestRedis,
    lease: Duration,
    pub(crate) db: TestDb,
    pub(crate) seen: Seen,
    pub(crate) broker: Broker,
    names: Vec<&'static str>,
}

impl World {
    pub(crate) async fn new(names: &[&'static str]) -> Self {
        Self::on(TestRedis::start(), names, |config| config).await
    }

    pub(crate) async fn leasing(lease: Duration, names: &[&'static str]) -> Self {
        Self::open(TestRedis::start(), lease, names, |config| config).await
    }

    pub(crate) async fn on(
        server: TestRedis,
        names: &[&'static str],
        configure: impl FnOnce(RedisConfig) -> RedisConfig,
    ) -> Self {
        Self::open(server, LEASE, names, configure).await
    }

    async fn open(
        server: TestRedis,
        lease: Duration,
        names: &[&'static str],
        configure: impl FnOnce(RedisConfig) -> RedisConfig,
    ) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter("termitary=debug")
            .try_init();
        grant(&server).await;
        let db = TestDb::open_with(Clock::system()).await;
        let broker = Broker::builder(db.db().clone()).lease(lease);
        let broker = broker.redis(configure(config(&server))).unwrap();
        broker.register(&registry(names)).await.unwrap();
        Self {
            server,
            lease,
            db,
            seen: Seen::default(),
            broker,
            names: names.to_vec(),
        }
    }

    /// Starts the killed server again. It has forgotten its users.
    pub(crate) async fn restart(&mut self) {
        self.server.restart();
        grant(&self.server).await;
    }

    pub(crate) fn config(&self) -> RedisConfig {
        config(&self.server)
    }

    pub(crate) fn broker_with(&self, config: RedisConfig) -> Broker {
        let broker = Broker::builder(self.db.db().clone()).lease(self.lease);
        broker.redis(config).unwrap()
    }

    /// A worker with connections of its own, as another process would have.
    pub(crate) async fn worker(&self) -> TestWorker {
        self.worker_with(self.config()).await
    }

    pub(crate) async fn worker_with(&self, config: RedisConfig) -> TestWorker {
        let broker = self.broker_with(config);
        let mut worker = TestWorker::start(broker, registry(&self.names), self.seen.clone()).await;
        worker.allow_leftovers();
        worker
    }

    /// Publishes in one transaction each.
    pub(crate) async fn commit(&self, numbers: std::ops::Range<u32>) {
        for n in numbers {
            let mut tx = self.db.db().begin().await.unwrap();
            tx.publish(Made { n }).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    pub(crate) async fn status(&self) -> Status {
        self.broker.inspect().status().await.unwrap()
    }

    pub(crate) async fn of(&self, name: &str) -> SubscriptionStatus {
        let found = self
            .status()
            .await
            .subscriptions
            .into_iter()
            .find(|s| s.name == name);
        found.unwrap_or_else(|| panic!("no subscription {name}"))
    }

    pub(crate) async fn redis(&self, command: &[&str]) -> redis::Value {
        let mut cmd = redis::cmd(command[0]);
        for part in &command[1..] {
            cmd.arg(*part);
        }
        cmd.query_async(&mut client(&self.server).await)
            .await
            .unwrap()
    }

    pub(crate) async fn number(&self, command: &[&str]) -> i64 {
        redis::from_redis_value(self.redis(command).await).unwrap_or(0)
    }
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Short, so that a dead worker is noticed soon.
const LEASE: Duration = Duration::from_millis(600);

fn config(server: &TestRedis) -> RedisConfig {
    server
        .config()
        .username("termitary")
        .password("a secret of the tests")
        .reconcile_after(Duration::from_secs(2))
}

/// Every test of this suite runs as the user that we tell operators to make:
/// a command, key or channel that it lacks is a failure.
pub(crate) async fn grant(server: &TestRedis) {
    let file = include_str!("../../../../deploy/redis/user.conf");
    let line = file.lines().find_map(|line| line.strip_prefix("user "));
    let mut cmd = redis::cmd("ACL");
    cmd.arg("SETUSER");
    for rule in line.unwrap().split_whitespace() {
        match rule {
            ">CHANGE-ME" => cmd.arg(">a secret of the tests"),
            rule => cmd.arg(rule),
        };
    }
    // The channels of these tests, as the file has those of the application,
    // and other prefixes.
    cmd.arg("&things.*");
    for prefix in ["shop", "ours", "theirs"] {
        cmd.arg(format!("~{prefix}:*")).arg(format!("&{prefix}:*"));
    }
    let _: () = cmd.query_async(&mut client(server).await).await.unwrap();
}

/// One command of an operator on a server without users.
pub(crate) async fn redis_command(server: &TestRedis, command: &str) {
    let mut conn = client(server).await;
    let done = redis::cmd(command).query_async(&mut conn).await;
    let _: redis::Value = done.unwrap();
}

/// Returns a connection like one of an operator or of another program.
async fn client(server: &TestRedis) -> MultiplexedConnection {
    let client = redis::Client::open(("127.0.0.1", server.port())).unwrap();
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}
