//! Access to hot paths for the benchmarks in `bench/micro`. Not part of the API.

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

/// Makes an envelope around `json`, as a publish does.
pub fn envelope(db: &Db, name: &str, json: &str) -> Result<Envelope, Error> {
    Ok(Draft::untyped(name, json.to_owned(), db.as_source())?.envelope)
}

/// Successful attempts that are not settled yet.
pub struct Unsettled(Vec<Settlement>);

/// Leases up to `max` deliveries of the first subscription and ends them.
pub async fn lease(
    broker: &Broker,
    registry: &Registry<()>,
    max: usize,
) -> Result<Unsettled, Error> {
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
    Ok(Unsettled(ended.collect()))
}

/// Settles them as one batch. Returns how many claims were still valid.
pub async fn settle(broker: &Broker, unsettled: Unsettled) -> Result<usize, Error> {
    let held = broker.transport().settle(&unsettled.0).await?;
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
