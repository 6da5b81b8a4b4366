//! Deliveries travel through Redis or Valkey Streams; the ledger's database
//! stays the truth. Redis carries only what can run now, and losing it costs
//! time, not events.

mod config;
mod link;
mod listen;
mod script;

use std::time::Duration;

use async_trait::async_trait;

use super::{Claim, Counts, Cursor, Leased, Route, Settlement, Transport, WorkerId};
use crate::db::Db;
use crate::error::Error;
use crate::event::Envelope;
use crate::publish::{Draft, Published};

pub use config::{Bridge, RedisConfig};
pub(crate) use link::Link;

pub(crate) struct Redis {
    db: Db,
    link: Link,
    config: RedisConfig,
}

impl Redis {
    pub(crate) fn new(db: Db, link: Link, config: RedisConfig) -> Self {
        Self { db, link, config }
    }
}

fn not_yet<T>() -> Result<T, Error> {
    Err(Error::unavailable("not yet"))
}

#[async_trait]
impl Transport for Redis {
    fn mode(&self) -> &'static str {
        "redis"
    }

    async fn declare(&self, _routes: &[Route]) -> Result<(), Error> {
        let _ = (&self.db, &self.link, &self.config);
        not_yet()
    }

    async fn publish(&self, _drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        not_yet()
    }

    async fn lease(
        &self,
        _: &Route,
        _: &WorkerId,
        _: usize,
        _: Duration,
    ) -> Result<Vec<Leased>, Error> {
        not_yet()
    }

    async fn renew(&self, _claims: &[Claim]) -> Result<Vec<bool>, Error> {
        not_yet()
    }

    async fn settle(&self, _settlements: Vec<Settlement>) -> Result<Vec<bool>, Error> {
        not_yet()
    }

    async fn upkeep(&self, _worker: &WorkerId, _routes: &[Route]) -> Result<Duration, Error> {
        not_yet()
    }

    async fn counts(&self, _routes: &[Route]) -> Result<Vec<Counts>, Error> {
        not_yet()
    }

    async fn read(&self, _cursor: &mut Cursor, _routes: &[Route]) -> Result<Vec<Envelope>, Error> {
        not_yet()
    }

    async fn leave(&self, _worker: &WorkerId, _routes: &[Route]) -> Result<(), Error> {
        not_yet()
    }
}
