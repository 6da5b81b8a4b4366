//! Where deliveries wait and are leased: in the ledger itself (`sql`), or on
//! Redis Streams with the ledger behind them (`redis`).

mod expiry;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod sql;
mod watch;

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::broadcast::Broadcasts;
use crate::clock::days;
use crate::db::{Db, writable};
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger;
use crate::publish::{Bus, Draft, Published};
use crate::registry::Registry;
use crate::worker::roll;

#[cfg(feature = "redis")]
pub use self::redis::{Bridge, RedisConfig};

/// How long a lease lasts unless renewed.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Shorter leases end while they are renewed, and longer ones keep the work of a
/// dead worker for ever.
const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=days(1);

/// The nearest lease that works.
pub(crate) fn bounded(lease: Duration) -> Duration {
    lease.clamp(*LEASES.start(), *LEASES.end())
}

/// A delivery whose worker died this often is quarantined: dead, `crashed`. The
/// last two of these times it was a suspect and ran alone: where processes are
/// killed often, one death while alone accuses a bystander.
pub(crate) const CRASH_LIMIT: u32 = 4;

/// A handle to a broker; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    db: Db,
    transport: Arc<dyn Transport>,
    broadcasts: Broadcasts,
    lease: Duration,
    /// It did not answer when it was last asked for its counts.
    away: Arc<AtomicBool>,
}

impl Broker {
    /// Deliveries are leased from the database itself: nothing else to run.
    pub fn sql(db: Db) -> Self {
        Self::sql_with_lease(db, DEFAULT_LEASE)
    }

    /// [`Broker::sql`] with another lease than [`DEFAULT_LEASE`]: how long the
    /// work of a dead worker waits before it runs elsewhere. At least 50 ms and at
    /// most a day.
    pub fn sql_with_lease(db: Db, lease: Duration) -> Self {
        let lease = bounded(lease);
        let transport = Arc::new(sql::Sql::new(db.clone(), lease));
        let broadcasts = Broadcasts::sql(db.clone());
        Self {
            db,
            transport,
            broadcasts,
            lease,
            away: Arc::default(),
        }
    }

    /// Deliveries travel through Redis or Valkey Streams; the database stays
    /// the ledger, so that losing Redis loses no transactional event. Connects
    /// when first used and again after every failure. Redis remembers which ledger
    /// it carries; that of another one is refused.
    ///
    /// # Errors
    /// `is_invalid()` if the settings cannot work with any server.
    #[cfg(feature = "redis")]
    pub fn redis(db: Db, config: RedisConfig) -> Result<Self, Error> {
        let lease = config.lease_time();
        let link = redis::Link::new(&config, db.ledger(), db.path())?;
        let transport = Arc::new(redis::Redis::new(db.clone(), link.clone(), config));
        db.carried_by(Arc::downgrade(&transport) as _);
        let broadcasts = Broadcasts::redis(link);
        Ok(Self {
            db,
            transport,
            broadcasts,
            lease,
            away: Arc::default(),
        })
    }

    /// Makes a registry's subscriptions and schedules known, so that events
    /// published from now on wait for them. Every role of an application does
    /// this at its start, the API too. With Redis away this still succeeds:
    /// the ledger is what matters.
    ///
    /// A subscription whose event is another one than before, and not by an alias, has
    /// moved: events of the old name no longer reach it, what is left of them is parked,
    /// and the log says so.
    ///
    /// # Errors
    /// [`Error::is_invalid`] if the registry has mistakes, or if a running worker handles
    /// another event under the name of one of these subscriptions, or if Redis is there and can
    /// never be used: it refuses the password, has no such database, is a Sentinel, a
    /// replica or a node of a Cluster, or carries the deliveries of another ledger.
    pub async fn register<S>(&self, registry: &Registry<S>) -> Result<(), Error> {
        self.declare(registry).await.map(drop)
    }

    /// Publishes outside a caller's transaction.
    pub fn bus(&self) -> Bus {
        Bus {
            broker: self.clone(),
        }
    }

    /// The ledger's database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Messages to every live process.
    pub fn broadcasts(&self) -> &Broadcasts {
        &self.broadcasts
    }

    /// Whether the broker answers now.
    pub async fn ping(&self) -> Result<(), Error> {
        self.transport.counts(&[]).await.map(drop)
    }

    /// What the transport counts beside the ledger; while it is away, nothing.
    pub(crate) async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error> {
        let counts = self.transport.counts(routes).await;
        let counts = self.unless_away(counts, "counts show the ledger only")?;
        Ok(counts.unwrap_or_default())
    }

    /// What the transport answered; nothing while it is away.
    fn unless_away<T>(&self, answer: Result<T, Error>, so: &str) -> Result<Option<T>, Error> {
        match answer {
            Ok(found) => {
                self.away.store(false, Ordering::Relaxed);
                Ok(Some(found))
            }
            Err(error) if error.is_unavailable() => {
                // Whoever asks every second needs no line every second.
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error = ?error, "the broker is away: {so}");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn mode(&self) -> &'static str {
        self.transport.mode()
    }

    /// Makes a registry known and answers its routes, in the registry's order.
    pub(crate) async fn declare<S>(&self, registry: &Registry<S>) -> Result<Vec<Route>, Error> {
        self.declare_for(registry, None).await
    }

    /// [`Broker::declare`] for a worker, which signs in at the same moment.
    pub(crate) async fn declare_for<S>(
        &self,
        registry: &Registry<S>,
        worker: Option<&roll::Entry>,
    ) -> Result<Vec<Route>, Error> {
        registry.check()?;
        let routes = ledger::declare(&self.db, registry, worker)
            .await
            .map_err(|error| writable(self.db.path(), error))?;
        let declared = self.transport.declare(&routes).await;
        self.unless_away(declared, "its consumer groups are made when it is back")?;
        Ok(routes)
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Whether committed events still have to be moved to where they are
    /// leased: housekeeping then hurries after each commit.
    pub(crate) fn relays(&self) -> bool {
        self.mode() == "redis"
    }

    /// Starts what else this broker runs inside a worker, until `stop`.
    pub(crate) fn spawn_side_tasks(
        &self,
        events: Vec<String>,
        worker: &WorkerId,
        stop: &tokio_util::sync::CancellationToken,
        tasks: &tokio_util::task::TaskTracker,
    ) {
        for task in self
            .transport
            .side_tasks(events, worker.clone(), stop.clone())
        {
            tasks.spawn(task);
        }
    }

    pub(crate) fn lease_time(&self) -> Duration {
        self.lease
    }
}

/// What stands between a worker and where deliveries wait. Dead letters,
/// parked events, schedules and retention are the ledger's in every mode.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// What an operator calls it.
    fn mode(&self) -> &'static str;

    /// Prepares for these subscriptions; called again after a loss.
    async fn declare(&self, routes: &[Route]) -> Result<(), Error>;

    /// Records events outside a transaction; answers in order.
    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error>;

    /// How many leases of one subscription are worth having under way at once:
    /// where one is taken apart here, the next may be fetched meanwhile.
    fn leases_at_once(&self) -> usize {
        1
    }

    /// Leases up to `max` due deliveries of one subscription for `worker`;
    /// waits up to `wait` for the first. Dropping the future loses nothing:
    /// what was leased unseen returns when its lease ends.
    async fn lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, Error>;

    /// Extends leases; per claim, whether it is still this worker's.
    async fn renew(&self, claims: &[Claim]) -> Result<Vec<bool>, Error>;

    /// Ends attempts; per settlement, whether the claim still held. Where that is
    /// not known of each, the broker says how many were lost, and answers that
    /// they held.
    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, Error>;

    /// One round of housekeeping: takes over what dead workers held, moves
    /// what is due, trims what is finished. Answers how long it may rest.
    async fn upkeep(&self, worker: &WorkerId, routes: &[Route]) -> Result<Duration, Error>;

    /// What waits and what runs outside the ledger's own count, per route.
    async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error>;

    /// Events that travel outside the ledger, after `cursor`; moves it on.
    async fn read(&self, cursor: &mut Cursor, routes: &[Route]) -> Result<Vec<Envelope>, Error>;

    /// What else runs inside a worker until `stop`; nothing by default.
    fn side_tasks(
        &self,
        _events: Vec<String>,
        _worker: WorkerId,
        _stop: tokio_util::sync::CancellationToken,
    ) -> Vec<futures_util::future::BoxFuture<'static, ()>> {
        Vec::new()
    }

    /// A subscription was dropped from the ledger: what is kept for it goes.
    async fn forget(&self, _route: &Route) -> Result<(), Error> {
        Ok(())
    }

    /// A worker that runs nothing ends, or pauses to run a suspect: takes back
    /// what it was handed unseen, and forgets it where that drops no work.
    async fn leave(&self, worker: &WorkerId, routes: &[Route]) -> Result<(), Error>;
}

/// A worker process: fresh at every start, so that nobody takes over the
/// identity of the dead.
pub(crate) type WorkerId = Arc<str>;

/// A registered subscription, as brokers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its row in the ledger.
    pub(crate) id: i64,
    pub(crate) name: String,
    /// The names that reach it: the event on record, then the others. Those that this
    /// code does not name are read all the same, and parked.
    pub(crate) events: Vec<String>,
    /// Those of them that did not reach it before this declaration, although it was
    /// known.
    pub(crate) fresh: Vec<String>,
    /// It stood in the ledger before this declaration: a broker that does not
    /// know it has lost data.
    pub(crate) known: bool,
}

/// The right to settle one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) event: Uuid,
    pub(crate) route: i64,
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "streams are owned by name")
    )]
    pub(crate) worker: WorkerId,
    /// Rises with every lease the ledger gives; older claims change nothing.
    pub(crate) fence: i64,
    pub(crate) origin: Origin,
}

impl Claim {
    /// Its row in the ledger, where it has one: event `seq`, route and fence.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unnecessary_wraps, reason = "only stream events have no row")
    )]
    pub(crate) fn row(&self) -> Option<(i64, i64, i64)> {
        match &self.origin {
            Origin::Ledger { seq, .. } => Some((*seq, self.route, self.fence)),
            #[cfg(feature = "redis")]
            Origin::Stream { .. } => None,
        }
    }
}

/// Where a delivery's truth lives.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A row of the ledger, by the event's `seq`; with Redis, also the entry
    /// that carries it.
    Ledger {
        seq: i64,
        #[cfg_attr(
            not(feature = "redis"),
            expect(dead_code, reason = "entries are on streams")
        )]
        entry: Option<Entry>,
    },
    /// A stream entry only (`bus.publish` on Redis). The ledger adopts it when
    /// it does anything but succeed.
    #[cfg(feature = "redis")]
    Stream {
        envelope: Arc<Envelope>,
        entry: Entry,
    },
}

/// A stream entry on Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) id: Arc<str>,
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few entries of different streams share an id.
        self.id.hash(state);
    }
}

/// A leased delivery, ready to run.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) envelope: Arc<Envelope>,
    /// Handler errors so far.
    pub(crate) attempts: u32,
    pub(crate) claim: Claim,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Finished; `committed` when nothing is left to be said in the ledger: the
    /// handler's own transaction did, or the delivery is another worker's.
    Done { committed: bool },
    /// An error was counted; due again at `due_us`.
    Retry { due_us: i64, error: String },
    /// No error was counted; due again at `due_us`.
    Snooze { due_us: i64 },
    /// Given up.
    Dead {
        reason: &'static str,
        error: String,
        counted: bool,
    },
    /// Kept untouched: this code cannot read it.
    Parked { reason: &'static str, error: String },
}

/// A claim and how its attempt ended.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) claim: Claim,
    pub(crate) outcome: Outcome,
}

/// What a transport counts for one route, beside the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Deliveries that wait on streams.
    pub(crate) pending: u64,
    /// Deliveries on streams that a worker holds.
    pub(crate) leased: u64,
    /// Stream-only events finished so far.
    pub(crate) done: u64,
    /// How many that the ledger counts as leased are counted above instead.
    pub(crate) handed: u64,
}

/// Where a reader of the event history stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) seq: i64,
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only streams have positions")
    )]
    pub(crate) streams: std::collections::BTreeMap<String, String>,
}
