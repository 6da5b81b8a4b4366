//! The measured worker process: this program again, in a role that `--help` does not
//! show. The benchmark talks to it over its standard input and output, one JSON object
//! a line; it ends when its input ends, so it never outlives the benchmark.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use redis::ConnectionAddr;
use serde::{Deserialize, Serialize};
use termitary::broker::RedisConfig;
use termitary::prelude::*;
use tokio::sync::mpsc;

use crate::event::{self, Created, Deleted, Updated};
use crate::process::Process;
use crate::report::Spread;

/// The pause between two progress messages.
const REPORT: Duration = Duration::from_millis(5);

/// The system that a worker process opens, and its settings.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The database's URL.
    pub(crate) database: String,
    pub(crate) redis: Option<RedisAccess>,
    pub(crate) concurrency: usize,
    pub(crate) idle_subscriptions: u64,
    /// True if events carry the time that they were planned for.
    pub(crate) latency: bool,
}

/// The connection to Redis. It is sent through the pipe, since it may contain a
/// password.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RedisAccess {
    host: String,
    port: u16,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    database: i64,
    prefix: String,
}

impl RedisAccess {
    pub(crate) fn new(config: &RedisConfig, prefix: String) -> anyhow::Result<Self> {
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

/// A message from a worker process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Message {
    /// Everything is open; the worker waits for the start signal.
    Ready,
    /// The number of events that its handler has seen.
    Handled(u64),
    /// The last message.
    Farewell(Farewell),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Farewell {
    pub(crate) latency: Option<Spread>,
    pub(crate) peak_resident_bytes: Option<u64>,
}

/// The figures that handlers collect.
#[derive(Default)]
pub(crate) struct Tally {
    handled: AtomicU64,
    /// Microseconds, one for each event with a planned time.
    latencies: Option<Mutex<Vec<u64>>>,
}

impl Tally {
    fn count(&self, event: &Created) {
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

async fn handle(event: Created, State(tally): State<Arc<Tally>>) -> HandlerResult {
    tally.count(&event);
    Ok(())
}

async fn idle(_: Deleted) -> HandlerResult {
    Ok(())
}

async fn backlog(_: Updated) -> HandlerResult {
    Ok(())
}

/// The measured subscription, and `idle_subscriptions` that receive no events.
pub(crate) fn registry(concurrency: usize, idle_subscriptions: u64) -> Registry<Arc<Tally>> {
    let measured = subscribe("bench.handle", handle).concurrency(concurrency);
    (0..idle_subscriptions).fold(Registry::new().on(measured), |registry, n| {
        registry.on(subscribe(format!("bench.idle-{n}"), idle))
    })
}

/// A subscription that no worker runs: its events stay pending.
pub(crate) fn backlog_registry() -> Registry<Arc<Tally>> {
    Registry::new().on(subscribe("bench.elsewhere", backlog))
}

pub(crate) async fn broker(database: &str, redis: Option<RedisConfig>) -> anyhow::Result<Broker> {
    let options = termitary::db::Options::default().service("bench");
    let db = Db::open_with(database, options).await?;
    Ok(match redis {
        Some(config) => Broker::redis(db, config)?,
        None => Broker::sql(db),
    })
}

/// Runs the worker process: opens the system that its input describes, waits for the
/// start signal, and works until its input ends.
///
/// # Errors
///
/// If the input does not come from `termitary bench`, or if the worker fails.
pub async fn run() -> anyhow::Result<()> {
    let mut input = lines();
    let spec = input.recv().await;
    let spec = spec.context("this command is for `termitary bench` only")?;
    let spec: Spec =
        serde_json::from_str(&spec).context("this command is for `termitary bench` only")?;
    let broker = broker(&spec.database, spec.redis.clone().map(RedisAccess::config)).await?;
    broker.ping().await?;
    send(&Message::Ready)?;
    if input.recv().await.is_none() {
        return Ok(());
    }
    let tally = Arc::new(Tally {
        latencies: spec.latency.then(Mutex::default),
        ..Tally::default()
    });
    work(&spec, broker, &tally, input).await?;
    send(&Message::Farewell(Farewell {
        latency: tally.spread(),
        peak_resident_bytes: Process::Own.peak_resident_bytes(),
    }))
}

/// The lines of the standard input. A thread reads them, since a read may block for
/// ever.
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
        failed = report(tally) => failed?,
    }
    broker.db().close().await;
    Ok(())
}

/// Sends the progress whenever it changed.
async fn report(tally: &Tally) -> anyhow::Result<()> {
    let mut sent = 0;
    loop {
        tokio::time::sleep(REPORT).await;
        let handled = tally.handled.load(Ordering::Relaxed);
        if handled != sent {
            send(&Message::Handled(handled))?;
            sent = handled;
        }
    }
}

fn send(message: &Message) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(message)?)?;
    Ok(stdout.flush()?)
}
