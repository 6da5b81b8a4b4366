//! Deliveries travel through Redis or Valkey Streams; the ledger's database
//! stays the truth. Redis carries only what can run now, and losing it costs
//! time, not events.
//!
//! An event is one entry on the stream of its name, read by one consumer group
//! per subscription; whatever one subscription needs a second time goes to a
//! stream of its own (`keys`, `entry`). A worker reads batches (`reader`),
//! asks the ledger whether they may run (`admit`), renews and settles them
//! (`renew`, `settle`). Whoever commits events carries them to their streams
//! (`carry`, `noting`); housekeeping moves what is left (`relay`), takes over
//! from the dead (`takeover`, `graves`), repairs what Redis lost (`reconcile`) and trims
//! what everyone has finished (`trim`); publishers clear streams that nobody
//! reads (`unread`). What Redis gives out a second time after it lost data runs
//! under a higher fence (`doubt`). What is published at
//! the same time is sent together (`sharing`). Each new connection is first asked
//! whether its server may be used (`accept`).

mod accept;
mod address;
mod admit;
mod bridge;
mod carry;
mod config;
mod counts;
mod declare;
mod doubt;
#[cfg(test)]
mod doubt_tests;
mod echo;
mod entry;
#[cfg(test)]
mod entry_tests;
mod graves;
#[cfg(feature = "hot-paths")]
pub(crate) mod hot;
mod info;
mod keys;
mod link;
mod listen;
mod live;
mod moved;
mod noting;
mod outage;
mod publish;
mod read;
mod reader;
mod reconcile;
mod refused;
mod relay;
mod renew;
mod reply;
mod script;
mod settle;
mod sharing;
mod takeover;
mod trim;
mod unread;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::expiry::Expiry;
use crate::clock::micros;
use crate::db::Db;
use crate::delivery::{Claim, Counts, Cursor, Leased, Route, Settlement, WorkerId};
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::Envelope;

use link::Wire;
use live::Live;
use outage::Outage;
use sharing::Sharing;

pub use config::{Bridge, RedisConfig};
pub(crate) use link::Link;

pub(crate) struct Redis {
    db: Db,
    link: Link,
    config: RedisConfig,
    /// What this process runs or is about to run.
    live: Live,
    /// Where entries are read.
    desks: reader::Desks,
    /// Single publishes, sent together.
    sharing: Sharing,
    /// Committed events on their way to their streams.
    carrying: carry::Carrying,
    /// Carried events whose entries the ledger does not know.
    noting: noting::Noting,
    /// Renewals come from a runtime of their own.
    renewals: Wire,
    keeper: tokio::sync::Mutex<upkeep::Keeper>,
    /// Suspects are leased from the ledger itself.
    suspects: Expiry,
    /// Streams without readers, between two looks.
    unread: unread::Looked,
    /// Groups on our streams that are not ours.
    strangers: trim::Strangers,
    /// Acknowledgements that Redis did not take.
    unacked: Outage,
    /// Events for plain channels that Redis did not take.
    unsent: Outage,
    /// Redis no longer knew a group that it should know: it lost data.
    lost: AtomicBool,
}

impl Redis {
    pub(crate) fn new(db: Db, link: Link, config: RedisConfig) -> Self {
        Self {
            sharing: Sharing::new(link.clone()),
            carrying: carry::Carrying::default(),
            noting: noting::Noting::default(),
            renewals: link.wire(),
            live: Live::default(),
            desks: reader::Desks::default(),
            keeper: tokio::sync::Mutex::new(upkeep::Keeper::new(config.lease_time())),
            suspects: Expiry::new(config.lease_time()),
            unread: unread::Looked::default(),
            strangers: trim::Strangers::default(),
            unacked: Outage::of("acknowledging what is finished"),
            unsent: Outage::of("sending events out on plain channels"),
            lost: AtomicBool::new(false),
            db,
            link,
            config,
        }
    }

    fn now_us(&self) -> i64 {
        self.db.clock().now_us()
    }

    /// Redis had lost entries that were still pending.
    fn loses(&self) {
        metrics::counter!("termitary_redis_losses_total").increment(1);
        self.lost.store(true, Ordering::Release);
    }

    /// Until when the ledger waits for what may not have arrived: whoever did get
    /// it has renewed it by then, or has a fence of its own.
    fn doubted_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.lease_time() / 2))
    }

    /// By when what begins to run now has been renewed: a third of a lease, and time
    /// for two rounds of renewals.
    fn renewed_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.lease_time() * 7 / 16))
    }

    /// Until when the ledger trusts Redis with what it hands over now.
    fn trusted_until_us(&self) -> i64 {
        self.now_us()
            .saturating_add(micros(self.config.reconcile_time()))
    }
}

#[async_trait]
impl Transport for Redis {
    fn mode(&self) -> &'static str {
        "redis"
    }

    async fn declare(&self, routes: &[Route]) -> Result<(), Error> {
        declare::routes(self, routes).await
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        publish::publish(self, drafts).await
    }

    fn leases_at_once(&self) -> usize {
        2
    }

    async fn lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, Error> {
        reader::lease(self, &self.link.keys().lane(route), worker, max, wait).await
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
        read::read(self, cursor, routes).await
    }

    fn side_tasks(
        &self,
        events: Vec<String>,
        worker: WorkerId,
        stop: CancellationToken,
    ) -> Vec<BoxFuture<'static, ()>> {
        if !self.config.bridge_mode().takes_in() {
            return Vec::new();
        }
        let bridge = bridge::Bridging::new(
            self.db.clone(),
            self.link.clone(),
            events,
            &worker,
            stop,
            self.config.bridge_mode().sends_out(),
        );
        vec![Arc::new(bridge).run().boxed()]
    }

    async fn forget(&self, route: &Route) -> Result<(), Error> {
        declare::forget(self, &self.link.keys().lane(route))
            .await
            .map(drop)
    }

    async fn leave(&self, worker: &WorkerId, routes: &[Route]) -> Result<(), Error> {
        takeover::leave(self, worker, routes).await
    }
}
