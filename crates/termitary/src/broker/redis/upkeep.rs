//! One round of housekeeping: relay always, the rest when its time has come.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::keys::Lane;
use super::{Redis, declare, doubt, reconcile, relay, takeover, trim};
use crate::broker::WorkerId;
use crate::clock::forward;
use crate::error::Error;
use crate::ledger;

const ROUTES_EVERY: Duration = Duration::from_secs(2);
const TRIM_EVERY: Duration = Duration::from_secs(1);
const RECONCILE_EVERY: Duration = Duration::from_millis(250);

/// What housekeeping remembers between two rounds.
#[derive(Default)]
pub(super) struct Keeper {
    /// Of every subscription on record, not only this worker's: the work of
    /// those that nobody here runs must still be relayed, taken over, trimmed.
    lanes: Vec<Lane>,
    /// The connection and the server that were there last time.
    connection: u64,
    server: Option<String>,
    routes_at: Option<Instant>,
    takeover_at: Option<Instant>,
    suspects_at: Option<Instant>,
    trim_at: Option<Instant>,
    reconcile_at: Option<Instant>,
}

/// Answers how long to rest.
pub(super) async fn round(redis: &Redis, worker: &WorkerId) -> Result<Duration, Error> {
    let Ok(mut keeper) = redis.keeper.try_lock() else {
        // Another worker of this process is at it.
        return Ok(relay::POLL);
    };
    keeper.know_routes(redis).await?;
    keeper.know_server(redis).await?;
    if redis.lost.swap(false, Ordering::AcqRel) {
        keeper
            .repair(redis)
            .await
            .inspect_err(|_| redis.lost.store(true, Ordering::Release))?;
    }
    let rest = relay::run(redis, &keeper.lanes).await?;
    if due(&mut keeper.suspects_at, takeover::every(redis)) {
        takeover::suspects(redis).await?;
    }
    if due(&mut keeper.takeover_at, takeover::every(redis))
        && takeover::run(redis, worker, &keeper.lanes).await?
    {
        metrics::counter!("termitary_redis_losses_total").increment(1);
        redis.lost.store(true, Ordering::Release);
    }
    if due(&mut keeper.reconcile_at, RECONCILE_EVERY)
        && reconcile::run(redis, &keeper.lanes).await?
    {
        keeper.reconcile_at = None;
    }
    if due(&mut keeper.trim_at, TRIM_EVERY) {
        trim::run(redis, &keeper.lanes).await?;
    }
    Ok(rest)
}

/// Whether its time has come; sets the next.
fn due(at: &mut Option<Instant>, every: Duration) -> bool {
    let now = forward();
    let due = at.is_none_or(|at| now >= at);
    if due {
        *at = Some(now + every);
    }
    due
}

impl Keeper {
    async fn know_routes(&mut self, redis: &Redis) -> Result<(), Error> {
        if due(&mut self.routes_at, ROUTES_EVERY) {
            let routes = ledger::routes(&redis.db).await?;
            // What parks unreadable input reads no stream.
            self.lanes = routes
                .iter()
                .filter(|route| route.name != ledger::BRIDGE)
                .map(|route| redis.link.keys().lane(route))
                .collect();
        }
        Ok(())
    }

    /// After a reconnect: is it the server that we knew?
    async fn know_server(&mut self, redis: &Redis) -> Result<(), Error> {
        let held = redis.link.shared().get().await?;
        if held.number == self.connection {
            return Ok(());
        }
        let server = server(redis).await?;
        if self.server.is_some() && self.server != server {
            // Restarted or failed over: the tail of what it had may be gone.
            redis.lost.store(true, Ordering::Release);
        }
        self.server = server;
        self.connection = held.number;
        declare::groups(redis, self.lanes.iter().map(|lane| (lane, true))).await?;
        // Time passed on Redis while nobody could renew: the living first.
        self.takeover_at = Some(forward() + redis.config.lease_time() / 2);
        Ok(())
    }

    async fn repair(&mut self, redis: &Redis) -> Result<(), Error> {
        declare::groups(redis, self.lanes.iter().map(|lane| (lane, true))).await?;
        reconcile::distrust(redis).await?;
        self.reconcile_at = None;
        Ok(())
    }
}

/// What tells one run of a server from another, where it says so.
async fn server(redis: &Redis) -> Result<Option<String>, Error> {
    let answers = redis.link.shared().many(&mut doubt::identity()).await?;
    Ok(doubt::identify(answers))
}
