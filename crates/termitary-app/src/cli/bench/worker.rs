//! The worker process that is measured: this program again, in a role that
//! help does not show. The benchmark talks to it over its standard input and
//! output, one JSON object a line; it ends when its input does, so that it
//! never outlives the benchmark.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use redis::ConnectionAddr;
use serde::{Deserialize, Serialize};
use termitary::broker::RedisConfig;
use termitary::prelude::*;
use tokio::sync::mpsc;

use super::event::{self, Never};
use super::process::Process;
use super::report::Spread;
use crate::cli::out;
use crate::todos::events::{TodoCreated, TodoUpdated};

/// How often it says how far it is.
const SAY: Duration = Duration::from_millis(5);

/// What it works on.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The database's URL.
    pub(super) database: String,
    pub(super) redis: Option<Way>,
    pub(super) concurrency: usize,
    pub(super) idle_subscriptions: u64,
    /// Whether events carry the instant that they were planned for.
    pub(super) latency: bool,
}

/// The way to Redis: through a pipe, since it may hold a password.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Way {
    host: String,
    port: u16,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    database: i64,
    prefix: String,
}

impl Way {
    pub(super) fn new(config: &RedisConfig, prefix: String) -> anyhow::Result<Self> {
        let info = config.connection_info()?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
            _ => anyhow::bail!("Redis is reached neither by TCP nor by TLS"),
        };
        let settings = info.redis_settings();
        Ok(Self {
            host,
            port,
            tls,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
            prefix,
        })
    }

    fn config(self) -> RedisConfig {
        let mut config = RedisConfig::host(self.host, self.port)
            .tls(self.tls)
            .database(self.database)
            .prefix(self.prefix);
        if let Some(username) = self.username {
            config = config.username(username);
        }
        if let Some(password) = self.password {
            config = config.password(password);
        }
        config
    }
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Word {
    /// Everything is open: it begins when it is told to.
    Ready,
    /// How many events its handler has seen.
    Handled(u64),
    /// The last word.
    Farewell(Farewell),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Farewell {
    pub(super) latency: Option<Spread>,
    pub(super) peak_resident_bytes: Option<u64>,
}

/// What handlers share.
#[derive(Default)]
pub(super) struct Tally {
    handled: AtomicU64,
    /// Microseconds, one for each event that says when it was planned.
    latencies: Option<Mutex<Vec<u64>>>,
}

impl Tally {
    fn note(&self, event: &TodoCreated) {
        if let (Some(latencies), Some(planned)) = (&self.latencies, event::number(event))
            && planned > 0
        {
            let late = event::now_us().saturating_sub(planned);
            // A push leaves the list whole even on a panic.
            let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.push(late);
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    fn spread(&self) -> Option<Spread> {
        let mut latencies = self
            .latencies
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Spread::of(std::mem::take(&mut *latencies))
    }
}

async fn handle(event: TodoCreated, State(tally): State<Arc<Tally>>) -> HandlerResult {
    tally.note(&event);
    Ok(())
}

async fn idle(_: Never) -> HandlerResult {
    Ok(())
}

async fn elsewhere(_: TodoUpdated) -> HandlerResult {
    Ok(())
}

/// The subscription that is measured, and those that have nothing to do.
pub(super) fn registry(concurrency: usize, idle_subscriptions: u64) -> Registry<Arc<Tally>> {
    let measured = subscribe("bench.handle", handle).concurrency(concurrency);
    (0..idle_subscriptions).fold(Registry::new().on(measured), |registry, n| {
        registry.on(subscribe(format!("bench.idle-{n}"), idle))
    })
}

/// A subscription that no worker here runs: its events wait.
pub(super) fn neighbour() -> Registry<Arc<Tally>> {
    Registry::new().on(subscribe("bench.elsewhere", elsewhere))
}

pub(super) async fn broker(database: &str, redis: Option<RedisConfig>) -> anyhow::Result<Broker> {
    let options = termitary::db::Options::default().service("bench");
    let db = Db::open_with(database, options).await?;
    Ok(match redis {
        Some(config) => Broker::redis(db, config)?,
        None => Broker::sql(db),
    })
}

/// The process: opens what it is told to, waits for the word, works until its
/// input ends.
pub(in crate::cli) async fn run() -> anyhow::Result<()> {
    let mut input = lines();
    let spec = input.recv().await;
    let spec = spec.context("this command is for `termitary bench` only")?;
    let spec: Spec =
        serde_json::from_str(&spec).context("this command is for `termitary bench` only")?;
    let broker = broker(&spec.database, spec.redis.clone().map(Way::config)).await?;
    broker.ping().await?;
    say(&Word::Ready)?;
    if input.recv().await.is_none() {
        return Ok(());
    }
    let tally = Arc::new(Tally {
        latencies: spec.latency.then(Mutex::default),
        ..Tally::default()
    });
    work(&spec, broker, &tally, input).await?;
    say(&Word::Farewell(Farewell {
        latency: tally.spread(),
        peak_resident_bytes: Process::Own.peak_resident_bytes(),
    }))
}

/// What comes in, until it ends. A thread of its own: it may wait for ever.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).find(Result::is_err);
    });
    receiver
}

async fn work(
    spec: &Spec,
    broker: Broker,
    tally: &Arc<Tally>,
    mut input: mpsc::UnboundedReceiver<String>,
) -> anyhow::Result<()> {
    let worker = Worker::new(
        broker.clone(),
        registry(spec.concurrency, spec.idle_subscriptions),
    )
    .state(Arc::clone(tally))
    .concurrency(spec.concurrency)
    .run(async { while input.recv().await.is_some() {} });
    tokio::select! {
        ended = worker => ended?,
        failed = tell(tally) => failed?,
    }
    broker.db().close().await;
    Ok(())
}

/// Says how far it is, whenever that changed.
async fn tell(tally: &Tally) -> anyhow::Result<()> {
    let mut said = 0;
    loop {
        tokio::time::sleep(SAY).await;
        let handled = tally.handled.load(Ordering::Relaxed);
        if handled != said {
            say(&Word::Handled(handled))?;
            said = handled;
        }
    }
}

fn say(word: &Word) -> anyhow::Result<()> {
    out::line(&serde_json::to_string(word)?)
}
