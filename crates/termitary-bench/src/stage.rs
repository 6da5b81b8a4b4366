//! The place of the measurements: each has a fresh database and, on Redis, a fresh key
//! prefix.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use termitary::Broker;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Environment;
use crate::args::BenchArgs;
use crate::event;
use crate::process::Process;
use crate::progress::Progress;
use crate::report::{Bytes, Cpu};
use crate::scratch::Scratch;
use crate::server::Server;
use crate::worker::{self, RedisAccess, Spec};
use crate::workers::Workers;

/// The number of events of one `publish_all`.
pub(crate) const BATCH: usize = 500;
/// The number of such calls at once.
pub(crate) const CALLS: usize = 4;
/// The pause between two checks whether everything is finished.
const POLL: Duration = Duration::from_millis(2);
/// No progress for this long is an error.
const STUCK: Duration = Duration::from_mins(1);

pub(crate) struct Stage {
    pub(crate) args: BenchArgs,
    pub(crate) environment: Environment,
    pub(crate) progress: Progress,
    pub(crate) server: Option<Mutex<Server>>,
    pub(crate) scratch: Scratch,
    spaces: AtomicU32,
}

impl Stage {
    pub(crate) fn new(
        args: BenchArgs,
        environment: Environment,
        scratch: Scratch,
        server: Option<Server>,
    ) -> Self {
        Self {
            args,
            environment,
            progress: Progress::new(),
            server: server.map(Mutex::new),
            scratch,
            spaces: AtomicU32::new(0),
        }
    }

    /// A space that contains only the subscriptions and the requested backlog.
    pub(crate) async fn space(&self) -> anyhow::Result<Space<'_>> {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let space = Space {
            stage: self,
            number,
            file: self.scratch.path().join(format!("{number}.db")),
        };
        let broker = space.open().await?;
        let registry = worker::registry(self.environment.concurrency, self.args.idle_subscriptions);
        broker.register(&registry).await?;
        if self.args.backlog > 0 {
            broker.register(&worker::backlog_registry()).await?;
            self.progress
                .step("a backlog of another name", self.args.backlog);
            self.batches(&broker, self.args.backlog, |_| event::backlog())
                .await?;
        }
        broker.db().close().await;
        Ok(space)
    }

    /// Publishes a backlog as fast as possible.
    pub(crate) async fn fill(&self, broker: &Broker, events: u64) -> anyhow::Result<()> {
        self.progress.step("a backlog", events);
        self.batches(broker, events, event::created).await
    }

    /// Runs [`CALLS`] tasks, each of which awaits one `publish_all` after the other.
    pub(crate) async fn batches<E: termitary::Event>(
        &self,
        broker: &Broker,
        events: u64,
        make: impl Fn(u64) -> E + Copy + Send + 'static,
    ) -> anyhow::Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut calls: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for _ in 0..CALLS {
            let (bus, next, progress) = (broker.bus(), Arc::clone(&next), self.progress.clone());
            calls.spawn(async move {
                loop {
                    let from = next.fetch_add(BATCH as u64, Ordering::Relaxed);
                    if from >= events {
                        return Ok(());
                    }
                    let to = events.min(from + BATCH as u64);
                    bus.publish_all((from..to).map(make)).await?;
                    progress.done(to);
                }
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// The CPU used so far by all processes.
    pub(crate) async fn cpu(&self, workers: Option<&Workers>) -> Cpu {
        let redis = match &self.server {
            Some(server) => server.lock().await.cpu_seconds().await,
            None => None,
        };
        Cpu {
            publisher: Process::Own.cpu_seconds(),
            workers: workers.and_then(Workers::cpu_seconds),
            redis,
        }
    }

    /// Waits until `events` were handled and the last one is acknowledged.
    pub(crate) async fn finished(
        &self,
        broker: &Broker,
        workers: &Workers,
        events: u64,
    ) -> anyhow::Result<()> {
        self.handled(workers, events).await?;
        let inspect = broker.inspect();
        let since = Instant::now();
        loop {
            let status = inspect.status().await?;
            let measured = status
                .subscriptions
                .iter()
                .find(|s| s.name == "bench.handle");
            if measured.is_some_and(|s| s.pending == 0 && s.leased == 0 && s.done >= events) {
                return Ok(());
            }
            if since.elapsed() > STUCK {
                bail!("the workers handled everything, but did not finish it within a minute");
            }
            workers.handled()?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `events` were handled.
    pub(crate) async fn handled(&self, workers: &Workers, events: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let handled = workers.handled()?;
            self.progress.done(handled);
            if handled >= events {
                return Ok(());
            }
            if handled > last {
                (last, since) = (handled, Instant::now());
            }
            if since.elapsed() > STUCK {
                bail!("the workers stopped at {handled} of {events} events for a minute");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Removes the keys on Redis; the files are removed when this is dropped.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        match &self.server {
            Some(server) => server.lock().await.clear().await,
            None => Ok(()),
        }
    }
}

/// A database and a key prefix of one measurement.
pub(crate) struct Space<'a> {
    stage: &'a Stage,
    number: u32,
    file: PathBuf,
}

impl Space<'_> {
    fn database(&self) -> String {
        format!("sqlite://{}", self.file.display())
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Broker> {
        let redis = match &self.stage.server {
            Some(server) => Some(server.lock().await.config(self.number)),
            None => None,
        };
        let broker = worker::broker(&self.database(), redis).await?;
        // Connected before anything is measured.
        broker.ping().await?;
        Ok(broker)
    }

    /// Starts `number` workers, ready to begin.
    pub(crate) async fn workers(&self, number: u64, latency: bool) -> anyhow::Result<Workers> {
        let redis = match &self.stage.server {
            Some(server) => {
                let server = server.lock().await;
                let prefix = server.prefix(self.number);
                Some(RedisAccess::new(&server.config(self.number), prefix)?)
            }
            None => None,
        };
        let args = &self.stage.args;
        let spec = Spec {
            database: self.database(),
            redis,
            concurrency: self.stage.environment.concurrency,
            idle_subscriptions: args.idle_subscriptions,
            latency,
        };
        Workers::start(&spec, number, self.stage).await
    }

    /// The bytes it takes. No process may have the database open.
    pub(crate) async fn bytes(&self) -> anyhow::Result<Bytes> {
        let redis = match &self.stage.server {
            Some(server) => Some(server.lock().await.bytes(self.number).await? as f64),
            None => None,
        };
        let database = std::fs::metadata(&self.file)?.len() as f64;
        Ok(Bytes { database, redis })
    }

    /// Removes the files and keys.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        if let Some(server) = &self.stage.server {
            let mut server = server.lock().await;
            let pattern = format!("{}:*", server.prefix(self.number));
            server.remove_keys(&pattern).await?;
        }
        for end in ["", "-wal", "-shm"] {
            let mut file = self.file.clone().into_os_string();
            file.push(end);
            // A closed database has only the first of them.
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }
}
