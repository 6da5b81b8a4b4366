//! Access to hot functions for the benchmarks in `bench/micro`. It is not part of the API and
//! changes with the measured code.

use std::time::Duration;

use jiff::Timestamp;

use crate::Error;
use crate::broker::Broker;
use crate::db::Db;
use crate::delivery::{Outcome, Settlement, WorkerId};
use crate::draft::Draft;
use crate::event::Envelope;
use crate::registry::Registry;
use crate::schedule::Rule;

pub use crate::broker::redis::hot_paths::{decode, encode, reply};

/// An envelope around `json`, as a publish makes it.
pub fn envelope(db: &Db, name: &str, json: &str) -> Result<Envelope, Error> {
    Ok(Draft::untyped(name, json.to_owned(), db)?.envelope)
}

/// Attempts that ended well and are not settled yet.
pub struct Ended(Vec<Settlement>);

/// Leases up to `max` deliveries of the first subscription and ends them.
pub async fn lease(broker: &Broker, registry: &Registry<()>, max: usize) -> Result<Ended, Error> {
    let routes = broker.declare(registry).await?;
    let route = routes
        .first()
        .ok_or_else(|| Error::internal("no subscription"))?;
    let worker: WorkerId = "bench".into();
    let leased = broker
        .transport()
        .lease(route, &worker, max, Duration::from_secs(5))
        .await?;
    let ended = leased.into_iter().map(|leased| Settlement {
        claim: leased.claim,
        outcome: Outcome::Done { committed: false },
    });
    Ok(Ended(ended.collect()))
}

/// Settles them as one batch; returns how many claims were still valid.
pub async fn settle(broker: &Broker, ended: Ended) -> Result<usize, Error> {
    let held = broker.transport().settle(&ended.0).await?;
    Ok(held.into_iter().filter(|held| *held).count())
}

/// A cron rule.
pub struct Cron(Rule);

impl Cron {
    /// Parses it.
    pub fn parse(cron: &str, timezone: &str) -> Result<Self, Error> {
        Rule::parse(cron, timezone)
            .map(Self)
            .map_err(Error::invalid)
    }

    /// The next tick after `instant`.
    pub fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        self.0.next_after(instant)
    }
}
