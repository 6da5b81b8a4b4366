//! Deliveries travel through Redis or Valkey Streams; the ledger's database
//! stays the truth. Redis carries only what can run now, and losing it costs
//! time, not events.
//!
//! An event is one entry on the stream of its name, read by one consumer group per
//! subscription. Redeliveries to one subscription go to a stream of its own.
//!
//! - [`wire`]: connections, commands, scripts, key names and replies.
//! - `entry`: the fields of a stream entry.
//! - [`deliver`]: publishing, and the way of a delivery through a worker.
//! - [`relay`]: from the ledger to the streams.
//! - [`repair`]: housekeeping, and what happens when Redis loses data.
//! - [`bridge`]: plain pub/sub of other programs.

mod bridge;
mod deliver;
mod entry;
#[cfg(test)]
mod entry_tests;
mod facts;
#[cfg(feature = "hot-paths")]
pub(crate) mod hot_paths;
mod relay;
mod repair;
mod standing;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::expiry::Expiry;
use crate::clock::micros;
use crate::db::Db;
use crate::delivery::{Claim, Counts, Cursor, Leased, Route, Settlement, WorkerId};
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::Envelope;

use self::bridge::incoming::Bridging;
use self::deliver::leased::LeasedEntries;
use self::deliver::{counts, history, publish, reader, renew, settle};
use self::relay::{carry, record};
use self::repair::loss::Losses;
use self::repair::{groups, takeover, trim, unsubscribed, upkeep};
use self::wire::link::Wire;
use self::wire::sharing::Sharing;
use crate::outage::Outage;

pub(crate) use self::facts::RedisFacts;
pub use self::wire::config::{Bridge, RedisConfig};
pub(crate) use self::wire::link::Link;
#[cfg(all(debug_assertions, feature = "testing"))]
pub(crate) use self::wire::pipeline::refused_by_a_cluster;

pub(crate) struct Redis {
    db: Db,
    link: Link,
    config: RedisConfig,
    /// The entries that this process runs or is about to run.
    leased: LeasedEntries,
    /// The readers of streams.
    readers: reader::Readers,
    /// Single publishes, sent together.
    sharing: Sharing,
    /// Committed events on their way to their streams.
    carrying: carry::Carrying,
    /// Carried events whose entries the ledger does not know.
    recording: record::Recording,
    /// Renewals come from a runtime of their own.
    renewals: Wire,
    housekeeping: tokio::sync::Mutex<upkeep::Housekeeping>,
    /// Suspects are leased from the ledger itself.
    suspects: Expiry,
    /// Streams without readers, between two looks.
    unsubscribed: unsubscribed::Looked,
    /// Groups on our streams that are not ours.
    unknown_groups: trim::UnknownGroups,
    /// Streams that are not trimmed because of an id in the future.
    ids_ahead: trim::IdsAhead,
    /// Acknowledgements that Redis did not take.
    unacked: Outage,
    /// Events for plain channels that Redis did not take.
    unsent: Outage,
    losses: Losses,
    /// Held while missing groups are made; with the last refusal.
    groups: tokio::sync::Mutex<groups::Refused>,
}

impl Redis {
    pub(crate) fn new(db: Db, link: Link, config: RedisConfig) -> Self {
        Self {
            sharing: Sharing::new(link.clone()),
            carrying: carry::Carrying::default(),
            recording: record::Recording::default(),
            renewals: link.wire(),
            leased: LeasedEntries::default(),
            readers: reader::Readers::default(),
            housekeeping: tokio::sync::Mutex::new(upkeep::Housekeeping::new(config.lease_time())),
            suspects: Expiry::new(config.lease_time()),
            unsubscribed: unsubscribed::Looked::default(),
            unknown_groups: trim::UnknownGroups::default(),
            ids_ahead: trim::IdsAhead::default(),
            unacked: Outage::of("acknowledging what is finished"),
            unsent: Outage::of("sending events out on plain channels"),
            losses: Losses::default(),
            groups: tokio::sync::Mutex::default(),
            db,
            link,
            config,
        }
    }

    fn now_us(&self) -> i64 {
        self.db.clock().now_us()
    }

    /// The time until which the ledger waits for a delivery that may not have arrived: by
    /// then a worker that received it has renewed it or taken a new fence.
    fn doubted_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.lease_time() / 2))
    }

    /// The time by which a run that begins now has been renewed: a third of a lease, and
    /// two rounds of renewals.
    fn renewed_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.lease_time() * 7 / 16))
    }

    /// The time until which the ledger trusts Redis with a delivery handed over now.
    fn trusted_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.reconcile_time()))
    }
}

impl Redis {
    /// The bridge from plain pub/sub, if it is switched on.
    pub(crate) fn bridge(
        &self,
        events: Vec<String>,
        worker: &WorkerId,
        stop: CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mode = self.config.bridge_mode();
        mode.takes_in().then(|| {
            let (db, link) = (self.db.clone(), self.link.clone());
            let bridge = Bridging::new(db, link, events, worker, stop, mode.sends_out());
            Arc::new(bridge).take_turns()
        })
    }
}

#[async_trait]
impl Transport for Redis {
    async fn declare(&self, routes: &[Route]) -> Result<(), Error> {
        groups::declare(self, routes).await
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        publish::publish(self, drafts).await
    }

    async fn lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, Error> {
        reader::lease(self, &self.link.keys().stream_set(route), worker, max, wait).await
    }

    async fn renew(&self, claims: &[Claim]) -> Result<Vec<bool>, Error> {
        renew::renew(self, claims).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, Error> {
        settle::settle(self, settlements).await
    }

    async fn upkeep(&self, worker: &WorkerId, _routes: &[Route]) -> Result<Duration, Error> {
        upkeep::round(self, worker).await
    }

    async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error> {
        counts::counts(self, routes).await
    }

    async fn read(&self, cursor: &mut Cursor, routes: &[Route]) -> Result<Vec<Envelope>, Error> {
        history::read(self, cursor, routes).await
    }

    async fn forget(&self, route: &Route) -> Result<(), Error> {
        groups::remove(self, &self.link.keys().stream_set(route))
            .await
            .map(drop)
    }

    async fn leave(&self, worker: &WorkerId, routes: &[Route]) -> Result<(), Error> {
        takeover::leave(self, worker, routes).await
    }
}
