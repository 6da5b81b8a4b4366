//! All parts of one run, with its beginning and its end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use termitary::broker::RedisConfig;
use termitary::db::Options;
use termitary::testing::TestPostgres;
use termitary::{Broker, Db, Tx};

use super::crew::{Crew, Kind, fake_time};
use super::proxy::{Fault, Proxy};
use super::sample::Sampler;
use super::server::Server;
use super::{Database, Mode, Settings};
use crate::check::DRAIN;
use crate::clock::now_ms;
use crate::events::{ON_POSTGRES, ON_SQLITE, SCHEDULE, TABLES};
use crate::history::{self, Line, Writer};
use crate::worker;

/// Longest time for a process to exit after SIGTERM; longer than its grace period.
const STOP: Duration = Duration::from_secs(40);
/// Longest wait for the lock of a fault: a stopped process may hold it already.
const LOCK: Duration = Duration::from_secs(2);
/// Locks what every publish, claim and settlement changes.
const LOCK_TABLES: &str = "LOCK TABLE termitary_events, termitary_deliveries";
/// Ends the connections of everybody else.
const CUT: &str = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

pub(super) struct Stage {
    /// Without it the database is a file.
    postgres: Option<Postgres>,
    pub(super) db: Db,
    broker: Broker,
    pub(super) crew: Crew,
    pub(super) server: Option<Server>,
    /// One in front of each process.
    pub(super) proxies: Vec<Proxy>,
    pub(super) history: Writer,
    /// The database's write lock, while a fault holds it.
    pub(super) lock: Option<Tx>,
    sampler: Sampler,
    notes: Vec<String>,
}

impl Stage {
    /// Creates database, server and proxies, and registers every subscription before the first
    /// publish.
    pub(super) async fn open(settings: &Settings, seed: u64, folder: &Path) -> Result<Self> {
        let postgres = (settings.database == Database::Postgres).then(Postgres::start);
        let url = match &postgres {
            None => format!("sqlite://{}", folder.join("chaos.db").display()),
            Some(postgres) => postgres.server.url("postgres"),
        };
        let db = Db::open_with(&url, Options::default().service("chaos")).await?;
        let triggers = if postgres.is_some() {
            ON_POSTGRES
        } else {
            ON_SQLITE
        };
        let mut tx = db.begin().await?;
        for statement in TABLES.iter().chain(triggers) {
            sqlx::query(*statement).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        let lease = Duration::from_millis(settings.lease_ms);
        let server = match settings.mode {
            Mode::Sql => None,
            Mode::Redis => Some(Server::start(folder).await?),
        };
        let broker = Broker::builder(db.clone()).lease(lease);
        let broker = match &server {
            None => broker.sql(),
            Some(server) => broker.redis(RedisConfig::host("127.0.0.1", server.port))?,
        };
        broker.register(&worker::registry()).await?;
        let mut stage = Self {
            sampler: Sampler::start(folder, server.as_ref().map(|server| server.port))?,
            crew: crew(settings, seed, folder, &url),
            history: Writer::open(&folder.join("nemesis.jsonl"))?,
            postgres,
            db,
            broker,
            server,
            proxies: Vec::new(),
            lock: None,
            notes: Vec::new(),
        };
        stage.places(settings, folder).await?;
        Ok(stage)
    }

    async fn places(&mut self, settings: &Settings, folder: &Path) -> Result<()> {
        let clock = folder.join("clock");
        std::fs::write(&clock, "+0\n")?;
        if fake_time().is_none() {
            let note =
                "CLOCKS WERE NOT TESTED: libfaketime is not installed (apt-get install faketime)";
            eprintln!("{note}");
            self.notes.push(note.to_owned());
        }
        for place in 0..settings.workers + settings.publishers {
            let port = match &self.server {
                Some(server) => {
                    self.proxies.push(Proxy::start(server.port).await?);
                    self.proxies.last().map(|proxy| proxy.port)
                }
                None => None,
            };
            let kind = if place < settings.workers {
                Kind::Worker
            } else {
                Kind::Publisher
            };
            let clock = (place == 0 && fake_time().is_some()).then(|| clock.clone());
            self.crew.add(kind, port, clock);
        }
        Ok(())
    }

    pub(super) fn start_all(&mut self) -> Result<()> {
        self.supervise()?;
        Ok(())
    }

    /// Starts missing processes, and passes their ids to the sampler.
    pub(super) fn supervise(&mut self) -> Result<()> {
        self.crew.supervise()?;
        self.sampler.watch(self.crew.ids());
        self.note_ended();
        Ok(())
    }

    /// Ends all faults: everything runs undisturbed, and no new event is published.
    pub(super) async fn heal(&mut self) -> Result<()> {
        self.lock = None;
        self.start_database();
        for proxy in &self.proxies {
            proxy.set(Fault::None);
        }
        if let Some((_, clock)) = self.crew.with_clock() {
            std::fs::write(clock, "+0\n")?;
        }
        if let Some(server) = &mut self.server {
            server.restart().await?;
            server.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
        }
        for slot in [self.crew.of(Kind::Worker), self.crew.of(Kind::Publisher)].concat() {
            self.crew.signal(slot, "CONT").await?;
        }
        self.supervise()?;
        let stubborn = self.crew.stop(Kind::Publisher, STOP).await?;
        self.notes.extend(
            stubborn
                .iter()
                .map(|name| format!("{name} did not stop on SIGTERM")),
        );
        Ok(())
    }

    /// Waits until no work is left, or nothing moves any more.
    pub(super) async fn drain(&mut self, patience: Duration) -> Result<()> {
        let from_ms = now_ms();
        self.broker
            .inspect()
            .pause_schedule(SCHEDULE, "chaos")
            .await?;
        let (mut moved, mut least) = (Instant::now(), u64::MAX);
        loop {
            let left = self.left().await.unwrap_or(u64::MAX - 1);
            if left == 0 {
                break;
            }
            if left < least {
                (moved, least) = (Instant::now(), left);
            }
            if moved.elapsed() > patience {
                self.notes
                    .push(format!("gave up waiting: {left} deliveries do not move"));
                break;
            }
            self.crew.supervise_only(Kind::Worker)?;
            self.note_ended();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let drain = history::Fault {
            name: DRAIN.to_owned(),
            from_ms,
            until_ms: now_ms(),
            ..history::Fault::default()
        };
        self.history.write(Line::Fault(drain));
        let stubborn = self.crew.stop(Kind::Worker, STOP).await?;
        self.notes.extend(
            stubborn
                .iter()
                .map(|name| format!("{name} did not stop on SIGTERM")),
        );
        Ok(())
    }

    /// A transaction that keeps everybody from writing.
    pub(super) async fn locked(&self) -> Option<Tx> {
        let lock = async {
            let mut tx = self.db.begin().await.ok()?;
            if self.postgres.is_some() {
                sqlx::query(LOCK_TABLES).execute(&mut *tx).await.ok()?;
            }
            Some(tx)
        };
        tokio::time::timeout(LOCK, lock).await.ok().flatten()
    }

    /// Ends the server of the database as a crash would.
    pub(super) fn kill_database(&mut self) {
        if let Some(postgres) = &mut self.postgres {
            tokio::task::block_in_place(|| postgres.server.kill());
            postgres.runs = false;
        }
    }

    /// Starts the server of the database unless it runs.
    pub(super) fn start_database(&mut self) {
        if let Some(postgres) = self.postgres.as_mut().filter(|postgres| !postgres.runs) {
            tokio::task::block_in_place(|| postgres.server.restart());
            postgres.runs = true;
        }
    }

    /// Ends every connection to the database but one.
    pub(super) async fn cut_database(&self) {
        let cut = async {
            let mut tx = self.db.begin().await.ok()?;
            sqlx::query(CUT).execute(&mut *tx).await.ok()
        };
        // A second fault may have ended the server already.
        let _ = tokio::time::timeout(LOCK, cut).await;
    }

    fn note_ended(&mut self) {
        for (name, status) in self.crew.ended.drain(..) {
            eprintln!("{name} exited by itself: {status}");
            self.history.write(Line::Ended { name, status });
        }
    }

    /// Deliveries that wait or run, in the ledger and on streams.
    async fn left(&self) -> Result<u64> {
        let status = self.broker.inspect().status().await?;
        let of = |s: &termitary::inspect::SubscriptionStatus| s.pending + s.leased;
        Ok(status.subscriptions.iter().map(of).sum())
    }

    /// Ends all running processes.
    pub(super) async fn close(&mut self) {
        self.sampler.stop();
        for kind in [Kind::Publisher, Kind::Worker] {
            for slot in self.crew.of(kind) {
                let _ = self.crew.kill(slot).await;
            }
        }
        if let Some(server) = &mut self.server {
            let _ = server.kill().await;
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The server of the database.
struct Postgres {
    server: TestPostgres,
    runs: bool,
}

impl Postgres {
    fn start() -> Self {
        // A commit that was confirmed is on the disk, as by default.
        let conf = [("max_connections", "400"), ("shared_buffers", "32MB")];
        let server = tokio::task::block_in_place(|| TestPostgres::conf(&conf));
        Self { server, runs: true }
    }
}

fn crew(settings: &Settings, seed: u64, folder: &Path, url: &str) -> Crew {
    let words = |words: &[(&str, String)]| -> Vec<String> {
        words
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), value.clone()])
            .collect()
    };
    let arguments = words(&[
        ("db", url.to_owned()),
        ("lease-ms", settings.lease_ms.to_string()),
        ("reconcile-ms", settings.reconcile_ms.to_string()),
    ]);
    let publish = words(&[
        ("seed", seed.to_string()),
        ("rate", settings.rate.to_string()),
    ]);
    let planted = settings.planted().map(str::to_owned);
    Crew::new(folder.to_owned(), arguments, publish, planted)
}
