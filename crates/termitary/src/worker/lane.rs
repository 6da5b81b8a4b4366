//! One subscription's loop: lease as many as there is room for, queue them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Core;
use super::measures::Measures;
use super::news;
use super::queue::Queue;
use crate::delivery::Route;
use crate::fault;
use crate::lock::Mutex;
use crate::subscription::Subscription;
use crate::task::let_others_go_first;

/// Time for which one lease call waits for work; the lane then calls again.
const WAIT: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The capacity of one lane. Running deliveries have claims; if handlers are short, as many again
/// are leased ahead, so that a free slot finds work without a round trip.
pub(super) struct Room {
    claims: Arc<Semaphore>,
    size: usize,
    /// The claims for leasing ahead, while no delivery is leased ahead.
    withheld: Mutex<Option<OwnedSemaphorePermit>>,
    /// The most of one lease: where several are under way, each has its share.
    share: usize,
    /// So many free places are worth a lease: less would be a round trip each.
    refill: u32,
}

/// One subscription as this worker runs it.
pub(super) struct Lane<S> {
    pub(super) subscription: Arc<Subscription<S>>,
    pub(super) measures: Arc<Measures>,
    pub(super) route: Route,
    pub(super) room: Arc<Room>,
    /// The subscription was dropped: the lane stops.
    pub(super) gone: CancellationToken,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            subscription: Arc::clone(&self.subscription),
            measures: Arc::clone(&self.measures),
            route: self.route.clone(),
            room: Arc::clone(&self.room),
            gone: self.gone.clone(),
        }
    }
}

impl<S> Lane<S> {
    /// `leases_at_once` as the broker has it.
    pub(super) fn new(subscription: Subscription<S>, route: Route, leases_at_once: usize) -> Self {
        let concurrency = subscription.policy.concurrency;
        let size = concurrency * 2;
        let room = Room {
            claims: Arc::new(Semaphore::new(size)),
            size,
            withheld: Mutex::default(),
            share: size / leases_at_once,
            refill: (concurrency / 2).max(1) as u32,
        };
        Self {
            measures: Arc::new(Measures::of(&subscription.name)),
            subscription: Arc::new(subscription),
            route,
            room: Arc::new(room),
            gone: CancellationToken::new(),
        }
    }
}

/// Leases and queues deliveries until the worker stops or the subscription is dropped. Queued
/// deliveries are released when it stops, or when a suspect is to run alone.
pub(super) async fn run<S: Send + Sync + 'static>(core: Arc<Core<S>>, lane: Lane<S>) {
    let Lane {
        subscription,
        measures,
        route,
        room,
        gone,
    } = lane;
    let queue = Queue::new(Arc::clone(&core), subscription, measures);
    let transport = core.broker.transport();
    let lease = async |claims: OwnedSemaphorePermit| {
        let max = claims.num_permits();
        let leased = transport.lease(&route, &core.id, max, WAIT).await;
        (leased, claims)
    };
    let mut under_way = FuturesUnordered::new();
    let mut backoff = None;
    loop {
        let (leased, claims) = tokio::select! {
            biased;
            // First, because leased deliveries are queued and release themselves.
            Some(ended) = under_way.next() => ended,
            () = core.stop.cancelled() => break,
            () = gone.cancelled() => break,
            () = core.until_alone(true), if !under_way.is_empty() => {
                under_way.clear();
                continue;
            }
            claims = room.claim(&core, &queue), if under_way.len() < core.broker.leases_at_once() => {
                let Some(claims) = claims else { break };
                under_way.push(lease(claims));
                continue;
            }
            () = queue.waits_long() => {
                queue.lease_no_more_ahead();
                continue;
            }
        };
        match leased {
            Ok(leased) => {
                if backoff.take().is_some() {
                    news::of_lane(&core, &route.name, None);
                }
                if !leased.is_empty() {
                    fault::point!("lease.leased", no error);
                }
                let few = leased.len() < claims.num_permits() / 2;
                queue.add(leased, claims);
                if few {
                    // They begin at once, and then more is asked for. Of a backlog the
                    // next are on their way meanwhile.
                    let_others_go_first().await;
                }
            }
            Err(error) => {
                // Once per outage: the lane goes on trying by itself.
                if backoff.is_none() {
                    news::of_lane(&core, &route.name, Some(&error));
                }
                under_way.clear();
                drop(claims);
                let wait: Duration = backoff.unwrap_or(FIRST_BACKOFF);
                backoff = Some((wait * 2).min(LAST_BACKOFF));
                let jitter = wait.mul_f64(0.5 + 0.5 * core.broker.db().clock().random());
                tokio::select! {
                    () = core.stop.cancelled() => break,
                    () = gone.cancelled() => break,
                    () = core.until_alone(true) => {}
                    () = tokio::time::sleep(jitter) => {}
                }
            }
        }
    }
    queue.give_back();
}

impl Room {
    /// The room there is now, once it is worth a lease. `None`: stopping.
    async fn claim<S: Send + Sync + 'static>(
        &self,
        core: &Core<S>,
        queue: &Queue<S>,
    ) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                biased;
                () = core.stop.cancelled() => return None,
                () = core.until_alone(true) => {
                    self.withheld.lock().take();
                    queue.give_back();
                }
                claims = self.free(core, queue) => return claims,
            }
            tokio::select! {
                () = core.stop.cancelled() => return None,
                () = core.until_alone(false) => {}
            }
        }
    }

    /// Free claims: for deliveries that can start now, and for leasing ahead if handlers are short.
    async fn free<S: Send + Sync + 'static>(
        &self,
        core: &Core<S>,
        queue: &Queue<S>,
    ) -> Option<OwnedSemaphorePermit> {
        loop {
            let ahead = queue.is_short();
            let claims = if ahead {
                self.withheld.lock().take();
                self.some(self.refill, self.share).await?
            } else {
                self.withhold().await?;
                // One of the process's places has to be free as well.
                drop(core.permits.acquire().await.ok()?);
                let places = core.permits.available_permits().max(1);
                self.some(1, self.share.min(places)).await?
            };
            // Handlers may have become slow while this waited.
            if ahead == queue.is_short() || !ahead {
                return Some(claims);
            }
        }
    }

    /// At least `few` claims, and those that are free up to `most`.
    async fn some(&self, few: u32, most: usize) -> Option<OwnedSemaphorePermit> {
        let acquired = Arc::clone(&self.claims).acquire_many_owned(few).await;
        let mut claims = acquired.ok()?;
        let more = most.saturating_sub(few as usize);
        let more = self.claims.available_permits().min(more) as u32;
        if let Ok(more) = Arc::clone(&self.claims).try_acquire_many_owned(more) {
            claims.merge(more);
        }
        Some(claims)
    }

    /// Withholds the claims for leasing ahead, once they are free.
    async fn withhold(&self) -> Option<()> {
        if self.withheld.lock().is_none() {
            let ahead = (self.size / 2) as u32;
            let ahead = Arc::clone(&self.claims).acquire_many_owned(ahead).await;
            *self.withheld.lock() = Some(ahead.ok()?);
        }
        Some(())
    }

    /// Every place: resolves when this lane has nothing leased.
    /// Until it is given back, the lane withholds nothing.
    pub(super) async fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        self.withheld.lock().take();
        let all = Arc::clone(&self.claims).acquire_many_owned(self.size as u32);
        all.await.ok()
    }
}
