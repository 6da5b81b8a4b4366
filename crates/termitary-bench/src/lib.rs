//! The measurements of `termitary bench`: the speed of this machine with the real
//! engine and full durability. A run works in a scratch folder and under a key
//! prefix of its own, and leaves nothing behind.
//!
//! [`run`] returns a [`Report`]; the program prints it. The worker processes are the
//! same program again, started with the argument [`ROLE`]: it calls [`run_worker`].

mod args;
mod drain;
mod event;
mod latency;
mod machine;
mod process;
mod progress;
mod publish;
mod report;
mod scratch;
mod server;
mod stage;
mod text;
mod transactional;
mod worker;
mod workers;

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use jiff::Timestamp;
use termitary::broker::RedisConfig;

pub use args::BenchArgs;
use args::{Broker, Only};
pub use report::Report;
use report::{DatabaseFacts, Drain, FORMAT, Publish, Settings};
use scratch::Scratch;
use server::Server;
use stage::{BATCH, CALLS, Stage};
pub use worker::run as run_worker;
pub use workers::ROLE;

/// The configured system that the measurements run beside.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The configured database file: the scratch folder is created in its folder.
    pub database: PathBuf,
    /// The configured Redis, if any.
    pub redis: Option<RedisConfig>,
    /// The number of events that a worker runs at once.
    pub concurrency: usize,
    /// The environment variables that worker processes must not inherit.
    pub settings: Vec<String>,
}

/// A measurement that the configuration or the server does not allow. Its text names
/// the way out.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Runs the measurements that `args` select.
///
/// `stopped` resolves, with the signal's name, each time the process is told to
/// stop: the first call ends the measurements, the second the clean-up.
///
/// # Errors
///
/// [`Refused`] if Redis is asked for and none is configured, or if its memory limit
/// leaves too little room; otherwise the failure of a measurement.
pub async fn run(
    args: BenchArgs,
    environment: Environment,
    mut stopped: impl AsyncFnMut() -> &'static str,
) -> anyhow::Result<Report> {
    let redis = redis(&environment, args.broker)?;
    if cfg!(debug_assertions) {
        // The report contains the kind of build too, so a closed stderr loses nothing.
        let _ = writeln!(
            std::io::stderr(),
            "termitary: this is a debug build: its figures say nothing about a release"
        );
    }
    let parent = match environment.database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Scratch::clear_leftovers(parent);
    // Worker processes run inside this folder, so its path must be absolute.
    let scratch = Scratch::create(&std::path::absolute(parent)?)?;
    let server = match redis {
        Some(redis) => {
            let events = args.events + args.backlog;
            let open = Server::open(&redis, scratch.id(), events);
            Some(or_stopped(&mut stopped, open).await?)
        }
        None => None,
    };
    let stage = Stage::new(args, environment, scratch, server);
    let measured = or_stopped(&mut stopped, with_progress(&stage)).await;
    stage.progress.end();
    // A second signal ends the clean-up; the next benchmark then removes the rest.
    let cleared = or_stopped(&mut stopped, stage.clear()).await;
    drop(stage);
    match (measured, cleared) {
        (Ok(report), Ok(())) => Ok(report),
        (Err(error), Ok(())) => Err(error.context("no figures, and nothing is left behind")),
        (Ok(_), Err(left)) => Err(left),
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
    }
}

/// The Redis to measure, if events travel through it.
fn redis(environment: &Environment, asked: Option<Broker>) -> Result<Option<RedisConfig>, Refused> {
    match (asked, &environment.redis) {
        (Some(Broker::Sqlite), _) | (None, None) => Ok(None),
        (_, Some(redis)) => Ok(Some(redis.clone())),
        (Some(Broker::Redis), None) => Err(Refused(
            "no Redis is configured: set REDIS_URL, such as redis://127.0.0.1, or measure without it: --broker sqlite".to_owned(),
        )),
    }
}

/// The result of `work`, or an error if a signal comes first.
async fn or_stopped<T>(
    stopped: &mut impl AsyncFnMut() -> &'static str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        name = stopped() => bail!("stopped by {name}"),
    }
}

async fn with_progress(stage: &Stage) -> anyhow::Result<Report> {
    tokio::select! {
        report = measure(stage) => report,
        never = stage.progress.clone().show() => match never {},
    }
}

async fn measure(stage: &Stage) -> anyhow::Result<Report> {
    let args = &stage.args;
    let mut report = conditions(stage).await;
    if args.wants(Only::PublishOne) {
        report.publish.one = Some(publish::awaited(stage, args.awaited_events(), 1).await?);
    }
    if args.wants(Only::PublishConcurrent) {
        let speed = publish::awaited(stage, args.events, args.producers).await?;
        report.publish.concurrent = Some(speed);
    }
    if args.wants(Only::PublishAll) {
        report.publish.all = Some(publish::all(stage, args.events).await?);
    }
    if args.wants(Only::DrainOne) {
        let (one, storage) = drain::run(stage, 1).await?;
        (report.drain.one, report.storage) = (Some(one), Some(storage));
    }
    if args.wants(Only::DrainSeveral) {
        let (several, storage) = drain::run(stage, args.workers).await?;
        report.drain.several = Some(several);
        report.storage = report.storage.or(Some(storage));
    }
    if args.wants(Only::Latency) {
        report.latency = Some(latency::run(stage).await?);
    }
    if args.wants(Only::Transactional) {
        report.transactional = Some(transactional::run(stage).await?);
    }
    Ok(report)
}

/// The report before anything is measured.
async fn conditions(stage: &Stage) -> Report {
    let args = &stage.args;
    let redis = match &stage.server {
        Some(server) => Some(server.lock().await.facts().await),
        None => None,
    };
    Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        at: Timestamp::now(),
        machine: machine::facts(),
        broker: if redis.is_some() { "redis" } else { "sqlite" },
        redis,
        database: DatabaseFacts {
            kind: "sqlite",
            journal: "wal",
            synchronous: "full",
        },
        settings: Settings {
            events: args.events,
            payload_bytes: event::BYTES,
            producers: args.producers,
            batch: BATCH,
            calls: CALLS,
            concurrency: stage.environment.concurrency,
            workers: args.workers,
            rate: args.rate,
            idle_subscriptions: args.idle_subscriptions,
            backlog: args.backlog,
        },
        publish: Publish::default(),
        drain: Drain::default(),
        latency: None,
        transactional: None,
        storage: None,
    }
}
