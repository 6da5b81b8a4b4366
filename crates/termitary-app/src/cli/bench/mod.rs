//! `termitary bench`: how fast this machine is, with the real engine and with
//! everything safe. It works in a folder and under a key prefix of its own and
//! leaves nothing behind.

mod args;
mod crew;
mod drain;
mod event;
mod latency;
mod machine;
mod print;
mod process;
mod progress;
mod publish;
mod report;
mod scratch;
mod server;
mod stage;
mod transactional;
mod worker;

use std::io::Write as _;
use std::path::Path;

use anyhow::bail;
use jiff::Timestamp;
use termitary::broker::RedisConfig;

pub(super) use args::BenchArgs;
use args::{Only, Travel};
pub(super) use crew::ROLE;
use report::{DatabaseFacts, Drain, FORMAT, Publish, Report, Settings};
use scratch::Scratch;
use server::Server;
use stage::{BATCH, CALLS, Stage};
pub(super) use worker::run as run_worker;

use super::open::file_of;
use super::out;
use super::signals::Signals;
use crate::config::{Config, Mistake};

pub(super) async fn run(config: Config, args: BenchArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let redis = travel(&config, args.broker)?;
    if cfg!(debug_assertions) {
        // Whoever does not read stderr still finds it in the report.
        let _ = writeln!(
            std::io::stderr(),
            "termitary: this is a debug build: its figures say nothing about a release"
        );
    }
    let file = file_of(&config.database_url);
    let parent = match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    Scratch::clear_leftovers(parent);
    // Its processes run in it: its name must hold from there too.
    let scratch = Scratch::create(&std::path::absolute(parent)?)?;
    let server = match redis {
        Some(redis) => {
            let events = args.events + args.backlog;
            let open = Server::open(&redis, scratch.id(), events);
            Some(or_stopped(&mut signals, open).await?)
        }
        None => None,
    };
    let stage = Stage::new(args, config.concurrency, scratch, server);
    let measured = or_stopped(&mut signals, shown(&stage)).await;
    stage.progress.end();
    // A second signal ends this too; the next benchmark then cleans up.
    let cleared = or_stopped(&mut signals, stage.clear()).await;
    let json = stage.args.json;
    drop(stage);
    let report = match (measured, cleared) {
        (Ok(report), Ok(())) => report,
        (Err(error), Ok(())) => {
            return Err(error.context("no figures, and nothing is left behind"));
        }
        (Ok(_), Err(left)) => return Err(left),
        (Err(error), Err(left)) => return Err(error.context(out::chain(&left))),
    };
    if json {
        return out::json(&report);
    }
    print::print(&report)
}

/// The Redis to measure, where events are to travel through it.
fn travel(config: &Config, asked: Option<Travel>) -> Result<Option<RedisConfig>, Mistake> {
    match (asked, &config.redis) {
        (Some(Travel::Sqlite), _) | (None, None) => Ok(None),
        (_, Some(redis)) => Ok(Some(redis.clone())),
        (Some(Travel::Redis), None) => Err(Mistake::new(
            "no Redis is configured: set REDIS_URL, such as redis://127.0.0.1, or measure without it: --broker sqlite",
        )),
    }
}

/// `work`, or an error where a signal comes first.
async fn or_stopped<T>(
    signals: &mut Signals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        name = signals.next() => bail!("stopped by {name}"),
    }
}

async fn shown(stage: &Stage) -> anyhow::Result<Report> {
    let showing = tokio::spawn(stage.progress.clone().show());
    // Ends with this future, however that ends.
    let _showing = AbortOnDrop(showing);
    measure(stage).await
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
    let travel = if redis.is_some() {
        Travel::Redis
    } else {
        Travel::Sqlite
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
        broker: travel.word(),
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
            concurrency: stage.concurrency,
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
