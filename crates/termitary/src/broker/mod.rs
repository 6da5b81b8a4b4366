//! The queues of deliveries: in the ledger itself (`sql`), or on Redis Streams with the ledger
//! behind them (`redis`).

pub mod broadcast;
mod bus;
mod expiry;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod sql;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::days;
use crate::db::Db;
use crate::delivery::{Claim, Counts, Cursor, Leased, Route, Settlement, WorkerId};
use crate::draft::{Draft, Published};
use crate::engine::sqlite::writable;
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger;
use crate::ledger::workers::{self, WorkerRow, WorkerStatus};
use crate::registry::Registry;

use self::broadcast::Broadcasts;
pub use self::bus::Bus;
#[cfg(feature = "redis")]
pub use self::redis::{Bridge, RedisConfig};

/// Duration of a lease unless it is renewed.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// A shorter lease ends while it is renewed.
const SHORTEST_LEASE: Duration = Duration::from_millis(50);
/// A longer lease keeps the work of a dead worker for too long.
const LONGEST_LEASE: Duration = days(1);

/// A handle to a broker; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    db: Db,
    transport: Arc<dyn Transport>,
    #[cfg(feature = "redis")]
    redis: Option<Arc<redis::Redis>>,
    broadcasts: Broadcasts,
    lease: Duration,
    /// Redis was unreachable when it was last asked for its counts.
    unreachable: Arc<AtomicBool>,
}

/// Settings that both brokers have: [`Broker::builder`].
///
/// ```
/// # use termitary::prelude::*;
/// # fn example(db: Db) {
/// let broker = Broker::builder(db).lease(secs(10)).sql();
/// # }
/// ```
#[must_use]
pub struct BrokerBuilder {
    db: Db,
    lease: Duration,
}

impl BrokerBuilder {
    /// Sets how long a lease lasts unless renewed: so long the work of a dead worker
    /// waits before it runs elsewhere (default: [`DEFAULT_LEASE`], 30 seconds).
    /// Clamped to between 50 ms and a day.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        self
    }

    /// Deliveries are leased from the database itself: nothing else to run.
    pub fn sql(self) -> Broker {
        let Self { db, lease } = self;
        Broker {
            transport: Arc::new(sql::Sql::new(db.clone(), lease)),
            #[cfg(feature = "redis")]
            redis: None,
            broadcasts: Broadcasts::sql(db.clone()),
            db,
            lease,
            unreachable: Arc::default(),
        }
    }

    /// Deliveries travel through Redis or Valkey Streams; the database stays the
    /// ledger, so losing Redis loses no transactional event. Connects at the first use
    /// and again after every failure. A Redis serves one ledger: it remembers which, and
    /// refuses another.
    ///
    /// # Errors
    /// `is_invalid()` if the settings cannot work with any server.
    #[cfg(feature = "redis")]
    pub fn redis(self, config: RedisConfig) -> Result<Broker, Error> {
        let Self { db, lease } = self;
        let config = config.with_lease(lease);
        let link = redis::Link::new(&config, db.ledger(), &db.place())?;
        let redis = Arc::new(redis::Redis::new(db.clone(), link.clone(), config));
        db.carried_by(Arc::downgrade(&redis) as _);
        Ok(Broker {
            transport: Arc::clone(&redis) as _,
            redis: Some(redis),
            broadcasts: Broadcasts::redis(link),
            db,
            lease,
            unreachable: Arc::default(),
        })
    }
}

impl Broker {
    /// Leases deliveries from the database itself: there is nothing else to run.
    pub fn sql(db: Db) -> Self {
        Self::builder(db).sql()
    }

    /// Carries deliveries through Redis or Valkey Streams: [`BrokerBuilder::redis`]
    /// with the default lease.
    ///
    /// # Errors
    /// `is_invalid()` if the settings cannot work with any server.
    #[cfg(feature = "redis")]
    pub fn redis(db: Db, config: RedisConfig) -> Result<Self, Error> {
        Self::builder(db).redis(config)
    }

    /// Begins a broker with other settings than the defaults.
    pub fn builder(db: Db) -> BrokerBuilder {
        BrokerBuilder {
            db,
            lease: DEFAULT_LEASE,
        }
    }

    /// Registers a registry's subscriptions and schedules, so that events published from now on
    /// wait for them. Every role of an application does this at its start, the API too. It succeeds
    /// even while Redis is unreachable, because it writes to the ledger.
    ///
    /// A subscription whose event has changed, and not by an alias, has moved: events of the old
    /// name no longer reach it, its unfinished deliveries are parked, and a warning is logged.
    ///
    /// # Errors
    /// `is_invalid()` if the registry has mistakes; if a running worker handles another event
    /// under the name of one of these subscriptions; or if Redis responds but cannot be used:
    /// it rejects the password, has no such database, is a Sentinel, a replica or a node of a
    /// Cluster, or carries the deliveries of another ledger. `is_unavailable()` if the database
    /// failed.
    pub async fn register<S>(&self, registry: &Registry<S>) -> Result<(), Error> {
        self.declare(registry).await.map(drop)
    }

    /// Returns the bus, which publishes outside a caller's transaction.
    pub fn bus(&self) -> Bus {
        Bus {
            broker: self.clone(),
        }
    }

    /// The ledger's database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Returns the messages to and from every live process.
    pub fn broadcasts(&self) -> &Broadcasts {
        &self.broadcasts
    }

    /// Asks the broker for a response.
    ///
    /// # Errors
    /// `is_unavailable()` if it does not respond.
    pub async fn ping(&self) -> Result<(), Error> {
        self.transport.counts(&[]).await.map(drop)
    }

    /// Counts of the transport beside the ledger; none while it is unreachable.
    pub(crate) async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error> {
        let counts = self.transport.counts(routes).await;
        let counts =
            self.unless_unreachable(counts, "the counts are those of the database alone")?;
        Ok(counts.unwrap_or_default())
    }

    /// The transport's result; none while it is unreachable.
    fn unless_unreachable<T>(
        &self,
        result: Result<T, Error>,
        so: &str,
    ) -> Result<Option<T>, Error> {
        match result {
            Ok(found) => {
                self.unreachable.store(false, Ordering::Relaxed);
                Ok(Some(found))
            }
            Err(error) if error.is_unavailable() => {
                // A caller that asks every second needs no log line every second.
                if !self.unreachable.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error = ?error, "Redis is unreachable: {so}");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A live worker whose deliveries travel another way. One whose clock is ahead may have
    /// ended long ago, and only a worker deletes its row: it must not keep workers away.
    pub(crate) async fn worker_of_another_mode(&self) -> Result<Option<WorkerStatus>, Error> {
        let mut live = workers::live(&self.db).await?.into_iter();
        Ok(live.find(|worker| {
            let is_live = worker.clock_ahead_seconds.is_none();
            is_live && !worker.mode.is_empty() && worker.mode != self.mode()
        }))
    }

    /// The facts that Redis tells about itself; `None` if there is no Redis.
    #[cfg(feature = "redis")]
    pub(crate) async fn redis_facts(&self) -> Option<Result<redis::RedisFacts, Error>> {
        match &self.redis {
            Some(redis) => Some(redis.facts().await),
            None => None,
        }
    }

    /// The name of the transport, for operators.
    pub(crate) fn mode(&self) -> &'static str {
        match self.db.path() {
            _ if self.relays() => "redis",
            Some(_) => "sqlite",
            None => "postgres",
        }
    }

    /// Number of leases of one subscription that are useful at once: while one reply of Redis is
    /// decoded, the next can be fetched.
    pub(crate) fn leases_at_once(&self) -> usize {
        if self.relays() { 2 } else { 1 }
    }

    /// Registers a registry and returns its routes, in the registry's order.
    pub(crate) async fn declare<S>(&self, registry: &Registry<S>) -> Result<Vec<Route>, Error> {
        self.declare_for(registry, None).await
    }

    /// [`Broker::declare`] for a worker, which signs in at the same moment.
    pub(crate) async fn declare_for<S>(
        &self,
        registry: &Registry<S>,
        worker: Option<&WorkerRow>,
    ) -> Result<Vec<Route>, Error> {
        registry.check()?;
        let routes = ledger::declare(&self.db, &registry.declaration(), worker)
            .await
            .map_err(|error| match self.db.path() {
                Some(path) => writable(path, error),
                None => error,
            })?;
        let declared = self.transport.declare(&routes).await;
        self.unless_unreachable(
            declared,
            "a worker creates the missing consumer groups when it is back",
        )?;
        Ok(routes)
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Returns whether committed events still have to be moved to their queue: housekeeping then
    /// runs soon after each commit.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unused_self, reason = "only Redis has queues of its own")
    )]
    pub(crate) fn relays(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.redis.is_some();
        #[cfg(not(feature = "redis"))]
        false
    }

    /// The bridge to plain pub/sub of other services, if this broker has one: a worker
    /// runs it until `stop`.
    #[cfg(feature = "redis")]
    pub(crate) fn bridge(
        &self,
        events: Vec<String>,
        worker: &WorkerId,
        stop: &tokio_util::sync::CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let redis = self.redis.as_ref()?;
        redis.bridge(events, worker, stop.clone())
    }

    pub(crate) fn lease_time(&self) -> Duration {
        self.lease
    }
}

/// The interface between a worker and the queues. Dead letters, parked events, schedules and
/// retention belong to the ledger in every mode.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Prepares for these subscriptions; called again after a loss.
    async fn declare(&self, routes: &[Route]) -> Result<(), Error>;

    /// Records events outside a transaction; returns the results in order.
    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error>;

    /// Leases up to `max` due deliveries of one subscription for `worker`; waits up to `wait` for
    /// the first. Dropping the future loses nothing: unseen leases return when they expire.
    async fn lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, Error>;

    /// Extends leases; per claim, whether it is still this worker's.
    async fn renew(&self, claims: &[Claim]) -> Result<Vec<bool>, Error>;

    /// Ends attempts; returns, in order, whether each claim was still valid. If that is not known
    /// of each, the broker logs how many were lost, and returns that they were valid.
    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, Error>;

    /// One round of housekeeping: takes over from dead workers, moves due deliveries, trims
    /// finished entries. Returns the time until the next round.
    async fn upkeep(&self, worker: &WorkerId, routes: &[Route]) -> Result<Duration, Error>;

    /// Waiting and running deliveries outside the ledger's own count, per route.
    async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error>;

    /// Events that travel outside the ledger, after `cursor`; moves it on.
    async fn read(&self, cursor: &mut Cursor, routes: &[Route]) -> Result<Vec<Envelope>, Error>;

    /// A subscription was dropped from the ledger: deletes its data here.
    async fn forget(&self, _route: &Route) -> Result<(), Error> {
        Ok(())
    }

    /// Called when a worker with nothing running stops, or pauses to run a suspect: releases
    /// deliveries that it was handed unseen, and removes it if that drops no work.
    async fn leave(&self, worker: &WorkerId, routes: &[Route]) -> Result<(), Error>;
}
