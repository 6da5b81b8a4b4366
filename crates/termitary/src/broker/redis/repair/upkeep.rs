//! One round of housekeeping: relay always, the rest when its time has come.

use std::time::{Duration, Instant};

use super::expired::Expired;
use super::{former, groups, loss, reconcile, takeover, trim};
use crate::broker::redis::Redis;
use crate::broker::redis::relay::due;
use crate::broker::redis::relay::refused::Refused;
use crate::broker::redis::wire::keys::Lane;
use crate::clock::forward;
use crate::delivery::{Route, WorkerId};
use crate::error::Error;
use crate::ledger;
use crate::outage::Outage;

const ROUTES_EVERY: Duration = Duration::from_secs(2);
const TRIM_EVERY: Duration = Duration::from_secs(1);
const RECONCILE_EVERY: Duration = Duration::from_millis(250);
/// How long another ledger may go unnoticed that has taken the server.
const OWNER_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// What housekeeping remembers between two rounds.
pub(crate) struct Keeper {
    /// Of every subscription on record, not only this worker's: the work of
    /// those that nobody here runs must still be relayed, taken over, trimmed.
    lanes: Vec<Lane>,
    /// The connection and the server that were there last time.
    connection: u64,
    /// Which run of a server it was, where it says so.
    server: Option<String>,
    /// The server of this connection was asked.
    server_known: bool,
    /// The names that reached subscriptions before they moved.
    former: Vec<Route>,
    routes_at: Option<Instant>,
    /// Every group is there, as far as we know.
    groups_made: bool,
    refused: Refused,
    expired: Expired,
    owner: Chore,
    meet: Chore,
    repair: Chore,
    relay: Chore,
    suspects: Chore,
    takeover: Chore,
    moved: Chore,
    reconcile: Chore,
    trim: Chore,
    sweep: Chore,
}

impl Keeper {
    /// Of leases of this length.
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            lanes: Vec::new(),
            connection: 0,
            server: None,
            server_known: false,
            former: Vec::new(),
            routes_at: None,
            groups_made: false,
            refused: Refused::default(),
            expired: Expired::of(lease),
            owner: Chore::of("asking whose deliveries Redis carries"),
            meet: Chore::of("asking which server it is"),
            repair: Chore::of("repairing what Redis lost"),
            relay: Chore::of("moving events to their streams"),
            suspects: Chore::of("taking back suspects"),
            takeover: Chore::of("taking over from dead workers"),
            moved: Chore::of("clearing the streams of events that subscriptions no longer handle"),
            reconcile: Chore::of("asking Redis for what it was trusted with"),
            trim: Chore::of("trimming streams"),
            sweep: Chore::of("removing the groups of dropped subscriptions"),
        }
    }
}

/// One part of housekeeping: what fails in it delays itself, and nothing else.
struct Chore {
    at: Option<Instant>,
    outage: Outage,
}

impl Chore {
    fn of(what: &'static str) -> Self {
        Self {
            at: None,
            outage: Outage::of(what),
        }
    }

    fn is_due(&self) -> bool {
        self.wait().is_zero()
    }

    /// How long until it comes again.
    fn wait(&self) -> Duration {
        self.at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(forward()))
    }

    /// Comes again after `every`, or when it may be tried again.
    fn ended<T>(&mut self, result: Result<T, Error>, every: Duration) -> Option<T> {
        let (wait, value) = match result {
            Ok(value) => {
                self.outage.over();
                (every, Some(value))
            }
            Err(error) => (self.outage.failed(&error), None),
        };
        self.at = Some(forward() + wait);
        value
    }
}

/// Answers how long to rest. An error: without a ledger or a connection there
/// is nothing to do.
pub(crate) async fn round(redis: &Redis, worker: &WorkerId) -> Result<Duration, Error> {
    let Ok(mut keeper) = redis.keeper.try_lock() else {
        // Another worker of this process is at it.
        return Ok(due::POLL);
    };
    keeper.know_routes(redis).await?;
    keeper.know_server(redis).await?;
    keeper.owner(redis).await?;
    keeper.repair(redis).await;
    let rest = keeper.relay(redis).await;
    keeper.suspects(redis).await;
    keeper.takeover(redis, worker).await;
    keeper.moved(redis, worker).await;
    keeper.reconcile(redis).await;
    keeper.trim(redis).await;
    keeper.sweep(redis).await;
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
            self.lanes = groups::lanes(redis).await?;
            self.former = ledger::former(&redis.db).await?;
        }
        Ok(())
    }

    /// After a reconnect: is it the server that we knew?
    async fn know_server(&mut self, redis: &Redis) -> Result<(), Error> {
        let held = redis.link.shared().get().await?;
        if held.number != self.connection {
            self.connection = held.number;
            self.groups_made = false;
            self.server_known = false;
            // Asked just now, when it was made.
            self.owner.at = Some(forward() + OWNER_EVERY);
            // Time passed on Redis while nobody could renew: the living first.
            self.expired.forget();
        }
        if self.server_known || !self.meet.is_due() {
            return Ok(());
        }
        if let Some(server) = self.meet.ended(server(redis).await, Duration::ZERO) {
            if self.server.is_some() && self.server != server {
                // Restarted or failed over: the tail of its data may be gone.
                match &server {
                    Some(server) => redis.losses.server_changed(server),
                    None => redis.losses.notice(),
                }
            }
            self.server = server;
            self.server_known = true;
        }
        Ok(())
    }

    /// Redis may have been emptied, or handed over, under a connection that stands.
    async fn owner(&mut self, redis: &Redis) -> Result<(), Error> {
        let lost = redis.losses.is_noticed();
        if !(self.owner.is_due() || lost) || !redis.link.shared().stands() {
            return Ok(());
        }
        match redis.link.still_ours().await {
            // It is told by whoever connects again, and the rest of the round is not
            // to touch what is another's.
            Err(error) if !redis.link.shared().stands() => Err(error),
            asked => {
                self.owner.ended(asked, OWNER_EVERY);
                Ok(())
            }
        }
    }

    /// Groups that may be missing, and what Redis may have lost with them.
    async fn repair(&mut self, redis: &Redis) {
        if !self.repair.is_due() {
            return;
        }
        let lost = redis.losses.take();
        if self.groups_made && !lost {
            return;
        }
        let made = groups::make_missing(redis, self.lanes.iter().map(|lane| (lane, true))).await;
        self.groups_made = made.is_ok();
        let lost = redis.losses.take() || lost;
        let mut repaired = made;
        if lost {
            let asking = loss::distrust(redis).await;
            if asking.is_err() {
                redis.losses.notice();
            }
            repaired = repaired.and(asking);
            self.reconcile.at = None;
        }
        self.repair.ended(repaired, Duration::ZERO);
    }

    async fn relay(&mut self, redis: &Redis) -> Duration {
        let mut rest = due::POLL;
        if self.relay.is_due() && redis.link.shared().stands() {
            let relayed = due::run(redis, &self.lanes, &mut self.refused).await;
            rest = self.relay.ended(relayed, Duration::ZERO).unwrap_or(rest);
        }
        // While it waits for Redis, the others are in no hurry either.
        let longest = RECONCILE_EVERY.min(takeover::every(redis));
        rest.max(self.relay.wait().min(longest))
    }

    async fn suspects(&mut self, redis: &Redis) {
        if self.suspects.is_due() {
            let taken = takeover::suspects(redis).await;
            self.suspects.ended(taken, takeover::every(redis));
        }
    }

    async fn takeover(&mut self, redis: &Redis, worker: &WorkerId) {
        if self.takeover.is_due() && redis.link.shared().stands() {
            let taken = takeover::run(redis, worker, &self.lanes, &mut self.expired).await;
            if self.takeover.ended(taken, takeover::every(redis)) == Some(true) {
                self.takeover.at = None;
            }
        }
    }

    async fn moved(&mut self, redis: &Redis, worker: &WorkerId) {
        if !self.former.is_empty() && self.moved.is_due() && redis.link.shared().stands() {
            let moved = former::run(redis, worker, &self.former).await;
            if self.moved.ended(moved, ROUTES_EVERY).is_some() {
                self.former.clear();
            }
        }
    }

    async fn reconcile(&mut self, redis: &Redis) {
        if self.reconcile.is_due() && redis.link.shared().stands() {
            let more = reconcile::run(redis, &self.lanes).await;
            if self.reconcile.ended(more, RECONCILE_EVERY) == Some(true) {
                self.reconcile.at = None;
            }
        }
    }

    async fn trim(&mut self, redis: &Redis) {
        if self.trim.is_due() && redis.link.shared().stands() {
            let trimmed = trim::run(redis, &self.lanes).await;
            self.trim.ended(trimmed, TRIM_EVERY);
        }
    }

    async fn sweep(&mut self, redis: &Redis) {
        if self.sweep.is_due() && redis.link.shared().stands() {
            let swept = groups::remove_dropped(redis).await;
            self.sweep.ended(swept, SWEEP_EVERY);
        }
    }
}

/// What tells one run of a server from another, where it says so.
async fn server(redis: &Redis) -> Result<Option<String>, Error> {
    let answers = redis.link.shared().many(&mut loss::identity()).await?;
    loss::identify(answers)
}
