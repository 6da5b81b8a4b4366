//! One round of housekeeping: relay always, the rest when its time has come.

use std::time::{Duration, Instant};

use super::expired::Expired;
use super::{former, groups, loss, reconcile, takeover, trim};
use crate::broker::redis::Redis;
use crate::broker::redis::relay::due;
use crate::broker::redis::relay::refused::Refused;
use crate::broker::redis::wire::keys::StreamSet;
use crate::clock::forward;
use crate::delivery::{Route, WorkerId};
use crate::error::Error;
use crate::ledger;
use crate::outage::Outage;

const ROUTES_EVERY: Duration = Duration::from_secs(2);
const TRIM_EVERY: Duration = Duration::from_secs(1);
const RECONCILE_EVERY: Duration = Duration::from_millis(250);
/// The longest time for which a server taken by another ledger goes unnoticed.
const OWNER_EVERY: Duration = Duration::from_secs(5);
const DROPPED_EVERY: Duration = Duration::from_secs(5);

/// The state of housekeeping between two rounds.
pub(crate) struct Housekeeping {
    /// Every subscription on record, not only this worker's: deliveries that no worker of
    /// this process runs are relayed, taken over and trimmed too.
    sets: Vec<StreamSet>,
    /// The connection and the server that were there last time.
    connection: u64,
    /// The identity of that server, if it is known.
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
    identity: Chore,
    repair: Chore,
    relay: Chore,
    suspects: Chore,
    takeover: Chore,
    moved: Chore,
    reconcile: Chore,
    trim: Chore,
    dropped: Chore,
}

impl Housekeeping {
    /// For leases of this length.
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            sets: Vec::new(),
            connection: 0,
            server: None,
            server_known: false,
            former: Vec::new(),
            routes_at: None,
            groups_made: false,
            refused: Refused::default(),
            expired: Expired::of(lease),
            owner: Chore::of("asking whose deliveries Redis carries"),
            identity: Chore::of("asking which server it is"),
            repair: Chore::of("repairing what Redis lost"),
            relay: Chore::of("moving events to their streams"),
            suspects: Chore::of("taking back suspects"),
            takeover: Chore::of("taking over from dead workers"),
            moved: Chore::of("clearing the streams of events that subscriptions no longer handle"),
            reconcile: Chore::of("asking Redis for what it was trusted with"),
            trim: Chore::of("trimming streams"),
            dropped: Chore::of("removing the groups of dropped subscriptions"),
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

    /// The time until it comes again.
    fn wait(&self) -> Duration {
        self.at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(forward()))
    }

    /// Does the work if it is due and a connection stands.
    async fn do_if_due<T>(
        &mut self,
        redis: &Redis,
        every: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        if !self.is_due() || !redis.link.shared().stands() {
            return None;
        }
        self.ended(work.await, every)
    }

    /// Sets when it comes again: after `every`, or after the wait of its outage.
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

/// Does one round. Returns how long to rest.
///
/// # Errors
/// Without a database or a connection there is nothing to do.
pub(crate) async fn round(redis: &Redis, worker: &WorkerId) -> Result<Duration, Error> {
    let Ok(mut housekeeping) = redis.housekeeping.try_lock() else {
        // Another worker of this process does it.
        return Ok(due::POLL);
    };
    let it = &mut *housekeeping;
    it.read_routes(redis).await?;
    it.check_server(redis).await?;
    it.check_owner(redis).await?;
    it.repair(redis).await;
    let (sets, lease) = (&it.sets, takeover::every(redis));
    let relay = due::hand_over(redis, sets, &mut it.refused);
    let rest = it.relay.do_if_due(redis, Duration::ZERO, relay).await;
    // While the relay waits for Redis, the others are in no hurry either.
    let longest = it.relay.wait().min(RECONCILE_EVERY.min(lease));
    let rest = rest.unwrap_or(due::POLL).max(longest);
    if it.suspects.is_due() {
        let taken = takeover::suspects(redis).await;
        it.suspects.ended(taken, lease);
    }
    let takeover = takeover::take_expired(redis, worker, sets, &mut it.expired);
    if it.takeover.do_if_due(redis, lease, takeover).await == Some(true) {
        it.takeover.at = None;
    }
    if !it.former.is_empty() {
        let clear = former::clear(redis, worker, &it.former);
        if it
            .moved
            .do_if_due(redis, ROUTES_EVERY, clear)
            .await
            .is_some()
        {
            it.former.clear();
        }
    }
    let reconcile = reconcile::check_page(redis, sets);
    if it
        .reconcile
        .do_if_due(redis, RECONCILE_EVERY, reconcile)
        .await
        == Some(true)
    {
        it.reconcile.at = None;
    }
    let trim = trim::trim_streams(redis, sets);
    it.trim.do_if_due(redis, TRIM_EVERY, trim).await;
    let remove = groups::remove_dropped(redis);
    it.dropped.do_if_due(redis, DROPPED_EVERY, remove).await;
    Ok(rest)
}

/// Returns whether its time has come; sets the next.
fn due(at: &mut Option<Instant>, every: Duration) -> bool {
    let now = forward();
    let due = at.is_none_or(|at| now >= at);
    if due {
        *at = Some(now + every);
    }
    due
}

impl Housekeeping {
    async fn read_routes(&mut self, redis: &Redis) -> Result<(), Error> {
        if due(&mut self.routes_at, ROUTES_EVERY) {
            self.sets = groups::stream_sets(redis).await?;
            self.former = ledger::former(&redis.db).await?;
        }
        Ok(())
    }

    /// Checks after a reconnect whether it is the same server as before.
    async fn check_server(&mut self, redis: &Redis) -> Result<(), Error> {
        let held = redis.link.shared().get().await?;
        if held.number != self.connection {
            self.connection = held.number;
            self.groups_made = false;
            self.server_known = false;
            // Asked just now, when it was made.
            self.owner.at = Some(forward() + OWNER_EVERY);
            // Idle times grew while no worker could renew: live workers renew first.
            self.expired.forget();
        }
        if self.server_known || !self.identity.is_due() {
            return Ok(());
        }
        if let Some(server) = self.identity.ended(server(redis).await, Duration::ZERO) {
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

    /// Checks whose server it is: it may have been emptied, or handed over, under a
    /// connection that stands.
    async fn check_owner(&mut self, redis: &Redis) -> Result<(), Error> {
        let lost = redis.losses.is_noticed();
        if !(self.owner.is_due() || lost) || !redis.link.shared().stands() {
            return Ok(());
        }
        match redis.link.still_ours().await {
            // The next connection reports it; the rest of the round must not touch the data
            // of another ledger.
            Err(error) if !redis.link.shared().stands() => Err(error),
            asked => {
                self.owner.ended(asked, OWNER_EVERY);
                Ok(())
            }
        }
    }

    /// Makes missing groups, and acts on what Redis may have lost with them.
    async fn repair(&mut self, redis: &Redis) {
        if !self.repair.is_due() {
            return;
        }
        let lost = redis.losses.take();
        if self.groups_made && !lost {
            return;
        }
        let made = groups::make_missing(redis, self.sets.iter().map(|set| (set, true))).await;
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
}

/// The identity of the server; `None` if this user may not ask.
async fn server(redis: &Redis) -> Result<Option<String>, Error> {
    let replies = redis.link.shared().many(&mut loss::identity()).await?;
    loss::identify(replies)
}
