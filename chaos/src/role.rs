//! Code shared by publisher and worker: the database, the broker, the signal to stop.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use termitary::broker::RedisConfig;
use termitary::db::Options;
use termitary::{Broker, Db};
use tokio::signal::unix::{SignalKind, signal};

/// Paths and ports of the ledger, the server and the history.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The URL of the database
    #[arg(long)]
    pub(crate) db: String,
    /// The port of Redis; without it, the database only
    #[arg(long)]
    pub(crate) redis: Option<u16>,
    #[arg(long, default_value_t = 2000)]
    pub(crate) lease_ms: u64,
    #[arg(long, default_value_t = 4000)]
    pub(crate) reconcile_ms: u64,
    /// The file that gets a line for every event of this process
    #[arg(long)]
    pub(crate) history: PathBuf,
}

impl Common {
    pub(crate) async fn broker(&self) -> Result<Broker> {
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init();
        let db = Db::open_with(&self.db, Options::default().service("chaos")).await?;
        let lease = Duration::from_millis(self.lease_ms);
        let broker = Broker::builder(db).lease(lease);
        Ok(match self.redis {
            None => broker.sql(),
            Some(port) => {
                let config = RedisConfig::host("127.0.0.1", port)
                    .reconcile_after(Duration::from_millis(self.reconcile_ms));
                broker.redis(config)?
            }
        })
    }
}

/// Resolves on SIGTERM. If the driver dies, this process exits at once, because its standard input
/// closes: nothing is left running.
pub(crate) async fn told_to_stop() -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0; 1]);
        std::process::exit(3);
    });
    let mut term = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    term.recv().await;
    Ok(())
}
