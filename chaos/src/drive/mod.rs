//! The driver: sets up, injects faults, heals, drains, checks, reports.

mod crew;
mod faults;
mod nemesis;
mod proxy;
mod report;
mod sample;
mod server;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::check::{self, Limits};
use crate::{facts, history};

use stage::Stage;

/// Settings of one run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// The transport of the deliveries
    #[arg(long, value_enum, default_value_t = Mode::Redis)]
    mode: Mode,
    /// The database of the ledger
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    database: Database,
    /// The same seed gives the same plan of faults (default: random)
    #[arg(long)]
    seed: Option<u64>,
    /// Duration of the faults
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    #[arg(long, default_value_t = 3)]
    workers: usize,
    #[arg(long, default_value_t = 2)]
    publishers: usize,
    /// Publishes per second of each publisher
    #[arg(long, default_value_t = 20)]
    rate: u64,
    #[arg(long, default_value_t = 2000)]
    lease_ms: u64,
    /// Delay before the ledger checks whether Redis still has a delivery
    #[arg(long, default_value_t = 4000)]
    reconcile_ms: u64,
    /// Longest pause between two faults
    #[arg(long, default_value_t = 3000)]
    pace_ms: u64,
    /// Only faults whose name begins with one of these, comma-separated
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// At the end, give up if nothing has moved for this long
    #[arg(long, default_value_t = 60)]
    patience_seconds: u64,
    /// Time that a busy machine may add to every bound
    #[arg(long, default_value_t = 10)]
    slack_seconds: u64,
    /// Keep histories, logs and database here (default: a temporary folder, kept only after a
    /// failure)
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    json: bool,
    /// A mistake built into the library that the checker must find
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    planted: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The database, nothing else
    #[value(alias = "sqlite")]
    Sql,
    /// Redis Streams, with the database as the ledger
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Database {
    /// One file
    Sqlite,
    /// A server of this run
    Postgres,
}

impl Settings {
    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<&str> {
        self.planted.as_deref()
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[expect(
        clippy::unused_self,
        reason = "the feature gives it something to answer"
    )]
    fn planted(&self) -> Option<&str> {
        None
    }

    fn limits(&self) -> Limits {
        let processes = (self.workers + self.publishers) as u64;
        Limits {
            redis: self.mode == Mode::Redis,
            lease_ms: self.lease_ms,
            reconcile_ms: self.reconcile_ms,
            slack_ms: self.slack_seconds * 1000,
            resident_kib: 200 * 1024,
            // Each worker's limit for one subscription; the lists of dead workers are emptied after
            // a lease.
            pending_list: 2 * crate::worker::CONCURRENCY as u64 * (self.workers as u64 + 6),
            connections: 24 * (processes + 2),
            log_bytes: 128 * 1024 * 1024,
        }
    }
}

/// Runs everything; returns whether every promise was kept.
pub(crate) async fn run(settings: Settings) -> Result<bool> {
    let seed = settings.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let kept = settings.folder.clone();
    let temporary = tempfile::Builder::new()
        .prefix("termitary-chaos-")
        .tempdir()?;
    let folder = kept.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;

    let mut stage = Stage::open(&settings, seed, &folder).await?;
    let finished = perform(&mut stage, &settings, seed).await;
    stage.close().await;
    let notes = finished?;
    let facts = facts::read(&stage.db).await?;
    let history = history::read(&folder)?;
    let verdict = check::check(&facts, &history, &settings.limits());
    let clean = verdict.is_clean();
    let folder = match (clean, kept) {
        (_, Some(folder)) => Some(folder),
        (true, None) => None,
        (false, None) => Some(temporary.keep()),
    };
    report::print(&settings, seed, &verdict, &notes, folder.as_deref());
    Ok(clean)
}

/// Runs from the first process to the last; returns notes for the report.
async fn perform(stage: &mut Stage, settings: &Settings, seed: u64) -> Result<Vec<String>> {
    stage.start_all()?;
    let time = Duration::from_secs_f64(settings.minutes * 60.0);
    tokio::select! {
        hurt = nemesis::run(stage, settings, seed, time) => hurt?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            eprintln!("interrupted: healing and checking");
        }
    }
    stage.heal().await?;
    stage
        .drain(Duration::from_secs(settings.patience_seconds))
        .await?;
    Ok(stage.notes())
}
