//! One subscription's loop: lease as many as there is room for, start them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Core, attempt};
use crate::broker::{Leased, Route};
use crate::fault;
use crate::subscription::Subscription;

/// How long one lease call waits for work; the lane then asks again.
const WAIT: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The room of one lane. Claimed work is what runs plus as much again, leased
/// ahead so that a free slot finds work without a round trip.
pub(super) struct Room {
    claims: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    size: usize,
    /// So many free places are worth a lease: less would be a round trip each.
    refill: u32,
}

/// One subscription as this worker runs it.
pub(super) struct Lane<S> {
    pub(super) subscription: Arc<Subscription<S>>,
    pub(super) route: Route,
    pub(super) room: Arc<Room>,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            subscription: Arc::clone(&self.subscription),
            route: self.route.clone(),
            room: Arc::clone(&self.room),
        }
    }
}

impl<S> Lane<S> {
    pub(super) fn new(subscription: Subscription<S>, route: Route) -> Self {
        let concurrency = subscription.policy.concurrency;
        let room = Arc::new(Room {
            claims: Arc::new(Semaphore::new(concurrency * 2)),
            slots: Arc::new(Semaphore::new(concurrency)),
            size: concurrency * 2,
            refill: (concurrency / 2).max(1) as u32,
        });
        Self {
            subscription: Arc::new(subscription),
            route,
            room,
        }
    }
}

/// Leases and starts attempts until the worker stops.
pub(super) async fn run<S: Send + Sync + 'static>(core: Arc<Core<S>>, lane: Lane<S>) {
    let Lane {
        subscription,
        route,
        room,
    } = lane;
    let mut backoff = None;
    while let Some(claims) = room.claim(&core).await {
        let lease = core
            .broker
            .transport()
            .lease(&route, &core.id, claims.num_permits(), WAIT);
        let leased = tokio::select! {
            biased;
            // First: what is leased is started, and gives itself back.
            leased = lease => leased,
            () = core.stop.cancelled() => return,
            () = core.until_alone(true) => continue,
        };
        match leased {
            Ok(leased) => {
                if backoff.take().is_some() {
                    tracing::info!(subscription = %route.name, "leasing again");
                }
                if !leased.is_empty() {
                    fault::point!("lease.leased", no error);
                }
                start(&core, &subscription, &room, claims, leased);
            }
            Err(error) => {
                // Once per outage: the lane goes on trying by itself.
                if backoff.is_none() {
                    tracing::warn!(subscription = %route.name, error = ?error, "cannot lease; trying again");
                }
                let wait: Duration = backoff.unwrap_or(FIRST_BACKOFF);
                backoff = Some((wait * 2).min(LAST_BACKOFF));
                let jitter = wait.mul_f64(0.5 + 0.5 * core.broker.db().clock().random());
                tokio::select! {
                    () = core.stop.cancelled() => return,
                    () = tokio::time::sleep(jitter) => {}
                }
            }
        }
    }
}

impl Room {
    /// All the room there is now, once it is worth a lease: what is leased ahead
    /// keeps the slots busy meanwhile. `None`: stopping.
    async fn claim<S>(&self, core: &Core<S>) -> Option<OwnedSemaphorePermit> {
        let enough = async {
            core.until_alone(false).await;
            let claims = Arc::clone(&self.claims);
            claims.acquire_many_owned(self.refill).await.ok()
        };
        let mut claims = tokio::select! {
            biased;
            () = core.stop.cancelled() => return None,
            enough = enough => enough?,
        };
        let more = self.claims.available_permits().min(self.size) as u32;
        if let Ok(more) = Arc::clone(&self.claims).try_acquire_many_owned(more) {
            claims.merge(more);
        }
        Some(claims)
    }
}

impl Room {
    /// Every place: resolves when this lane has nothing leased.
    pub(super) async fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.claims).acquire_many_owned(self.size as u32);
        all.await.ok()
    }
}

fn start<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    subscription: &Arc<Subscription<S>>,
    room: &Room,
    mut claims: OwnedSemaphorePermit,
    leased: Vec<Leased>,
) {
    for delivery in leased {
        let Some(claim) = claims.split(1) else {
            tracing::error!(subscription = %subscription.name, "the broker leased more than asked");
            return;
        };
        let slots = Arc::clone(&room.slots);
        core.tasks.spawn(attempt::run(
            Arc::clone(core),
            Arc::clone(subscription),
            delivery,
            slots,
            claim,
        ));
    }
}
