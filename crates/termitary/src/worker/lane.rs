//! One subscription's loop: lease as many as there is room for, queue them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Core;
use super::measures::Measures;
use super::queue::Queue;
use crate::broker::Route;
use crate::fault;
use crate::subscription::Subscription;

/// How long one lease call waits for work; the lane then asks again.
const WAIT: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The room of one lane. Claimed work is what runs plus as much again, leased
/// ahead so that a free place finds work without a round trip.
pub(super) struct Room {
    claims: Arc<Semaphore>,
    size: usize,
    /// So many free places are worth a lease: less would be a round trip each.
    refill: u32,
}

/// One subscription as this worker runs it.
pub(super) struct Lane<S> {
    pub(super) subscription: Arc<Subscription<S>>,
    pub(super) measures: Arc<Measures>,
    pub(super) route: Route,
    pub(super) room: Arc<Room>,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            subscription: Arc::clone(&self.subscription),
            measures: Arc::clone(&self.measures),
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
            size: concurrency * 2,
            refill: (concurrency / 2).max(1) as u32,
        });
        Self {
            measures: Arc::new(Measures::of(&subscription.name)),
            subscription: Arc::new(subscription),
            route,
            room,
        }
    }
}

/// Leases and queues deliveries until the worker stops. What is queued and not
/// begun goes back when it stops, or when a suspect is to run alone.
pub(super) async fn run<S: Send + Sync + 'static>(core: Arc<Core<S>>, lane: Lane<S>) {
    let Lane {
        subscription,
        measures,
        route,
        room,
    } = lane;
    let queue = Queue::new(Arc::clone(&core), subscription, measures);
    let mut backoff = None;
    while let Some(claims) = room.claim(&core, &queue).await {
        let lease = core
            .broker
            .transport()
            .lease(&route, &core.id, claims.num_permits(), WAIT);
        let leased = tokio::select! {
            biased;
            // First: what is leased is queued, and gives itself back.
            leased = lease => leased,
            () = core.stop.cancelled() => break,
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
                queue.add(leased, claims);
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
                    () = core.stop.cancelled() => break,
                    () = core.until_alone(true) => {}
                    () = tokio::time::sleep(jitter) => {}
                }
            }
        }
    }
    queue.give_back();
}

impl Room {
    /// All the room there is now, once it is worth a lease: what is leased ahead
    /// keeps the places busy meanwhile. `None`: stopping.
    async fn claim<S: Send + Sync + 'static>(
        &self,
        core: &Core<S>,
        queue: &Queue<S>,
    ) -> Option<OwnedSemaphorePermit> {
        let mut claims = loop {
            tokio::select! {
                biased;
                () = core.stop.cancelled() => return None,
                () = core.until_alone(true) => queue.give_back(),
                claims = Arc::clone(&self.claims).acquire_many_owned(self.refill) => break claims.ok()?,
            }
            tokio::select! {
                () = core.stop.cancelled() => return None,
                () = core.until_alone(false) => {}
            }
        };
        let more = self.claims.available_permits().min(self.size) as u32;
        if let Ok(more) = Arc::clone(&self.claims).try_acquire_many_owned(more) {
            claims.merge(more);
        }
        Some(claims)
    }

    /// Every place: resolves when this lane has nothing leased.
    pub(super) async fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.claims).acquire_many_owned(self.size as u32);
        all.await.ok()
    }
}
