//! Where measurements take place: one fresh database, and one fresh key prefix
//! on Redis, for each of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use termitary::Broker;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::BenchArgs;
use super::crew::Crew;
use super::event;
use super::process::Process;
use super::progress::Progress;
use super::report::{Bytes, Cpu};
use super::scratch::Scratch;
use super::server::Server;
use super::worker::{self, Spec, Way};

/// How many events one `publish_all` takes.
pub(super) const BATCH: usize = 500;
/// How many such calls are under way at once.
pub(super) const CALLS: usize = 4;
/// How often to ask whether everything is finished.
const LOOK: Duration = Duration::from_millis(2);
/// Nothing is finished for so long: something is wrong.
const STUCK: Duration = Duration::from_mins(1);

pub(super) struct Stage {
    pub(super) args: BenchArgs,
    /// How many events a worker runs at once.
    pub(super) concurrency: usize,
    pub(super) progress: Progress,
    pub(super) server: Option<Mutex<Server>>,
    pub(super) scratch: Scratch,
    spaces: AtomicU32,
}

impl Stage {
    pub(super) fn new(
        args: BenchArgs,
        concurrency: usize,
        scratch: Scratch,
        server: Option<Server>,
    ) -> Self {
        Self {
            args,
            concurrency,
            progress: Progress::new(),
            server: server.map(Mutex::new),
            scratch,
            spaces: AtomicU32::new(0),
        }
    }

    /// A place with nothing in it but the subscriptions and, where asked for,
    /// what waits for somebody else.
    pub(super) async fn space(&self) -> anyhow::Result<Space<'_>> {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let space = Space {
            stage: self,
            number,
            file: self.scratch.path().join(format!("{number}.db")),
        };
        let broker = space.open().await?;
        let registry = worker::registry(self.concurrency, self.args.idle_subscriptions);
        broker.register(&registry).await?;
        if self.args.backlog > 0 {
            broker.register(&worker::neighbour()).await?;
            self.progress
                .step("a backlog of another name", self.args.backlog);
            self.batches(&broker, self.args.backlog, |_| event::waiting())
                .await?;
        }
        broker.db().close().await;
        Ok(space)
    }

    /// Publishes a backlog, as fast as it goes.
    pub(super) async fn fill(&self, broker: &Broker, events: u64) -> anyhow::Result<()> {
        self.progress.step("a backlog", events);
        self.batches(broker, events, event::created).await
    }

    /// [`CALLS`] tasks, each of which awaits one `publish_all` after the other.
    pub(super) async fn batches<E: termitary::Event>(
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

    /// The CPU used so far, by everybody.
    pub(super) async fn cpu(&self, crew: Option<&Crew>) -> Cpu {
        let redis = match &self.server {
            Some(server) => server.lock().await.cpu_seconds().await,
            None => None,
        };
        Cpu {
            publisher: Process::Own.cpu_seconds(),
            workers: crew.and_then(Crew::cpu_seconds),
            redis,
        }
    }

    /// Waits until `events` were handled and the last one is acknowledged.
    pub(super) async fn finished(
        &self,
        broker: &Broker,
        crew: &Crew,
        events: u64,
    ) -> anyhow::Result<()> {
        self.handled(crew, events).await?;
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
            crew.handled()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until so many were handled.
    pub(super) async fn handled(&self, crew: &Crew, events: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let handled = crew.handled()?;
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
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Leaves nothing on Redis; the files go when this is dropped.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        match &self.server {
            Some(server) => server.lock().await.clear().await,
            None => Ok(()),
        }
    }
}

/// A database and a key prefix of one measurement.
pub(super) struct Space<'a> {
    stage: &'a Stage,
    number: u32,
    file: PathBuf,
}

impl Space<'_> {
    fn database(&self) -> String {
        format!("sqlite://{}", self.file.display())
    }

    pub(super) async fn open(&self) -> anyhow::Result<Broker> {
        let redis = match &self.stage.server {
            Some(server) => Some(server.lock().await.config(self.number)),
            None => None,
        };
        let broker = worker::broker(&self.database(), redis).await?;
        // Connected before anything is measured.
        broker.ping().await?;
        Ok(broker)
    }

    /// So many workers, ready to begin.
    pub(super) async fn crew(&self, workers: u64, latency: bool) -> anyhow::Result<Crew> {
        let redis = match &self.stage.server {
            Some(server) => {
                let server = server.lock().await;
                let prefix = server.prefix(self.number);
                Some(Way::new(&server.config(self.number), prefix)?)
            }
            None => None,
        };
        let args = &self.stage.args;
        let spec = Spec {
            database: self.database(),
            redis,
            concurrency: self.stage.concurrency,
            idle_subscriptions: args.idle_subscriptions,
            latency,
        };
        Crew::start(&spec, workers, self.stage.scratch.path()).await
    }

    /// The bytes it takes. Nobody may have the database open.
    pub(super) async fn bytes(&self) -> anyhow::Result<Bytes> {
        let redis = match &self.stage.server {
            Some(server) => Some(server.lock().await.bytes(self.number).await? as f64),
            None => None,
        };
        let database = std::fs::metadata(&self.file)?.len() as f64;
        Ok(Bytes { database, redis })
    }

    /// Makes room for the next.
    pub(super) async fn remove(self) -> anyhow::Result<()> {
        if let Some(server) = &self.stage.server {
            let mut server = server.lock().await;
            let pattern = format!("{}:*", server.prefix(self.number));
            server.remove_keys(&pattern).await?;
        }
        for end in ["", "-wal", "-shm"] {
            let mut file = self.file.clone().into_os_string();
            file.push(end);
            // Most of these are not there any more.
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }
}
