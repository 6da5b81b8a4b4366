//! Leases deliveries of one subscription, up to the number that it can begin, and queues
//! them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Core;
use super::lease_outages;
use super::measures::Measures;
use super::queue::Queue;
use crate::delivery::Route;
use crate::fault;
use crate::lock::Mutex;
use crate::subscription::Subscription;
use crate::task::let_others_go_first;

/// Time that one lease call waits for work before the lane asks again.
const WAIT: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The permits of one lane: one for each delivery that it may have leased. Half of them
/// are for deliveries that run. The other half is used only while handlers are short:
/// deliveries are then leased ahead, so that a free place finds work without a round trip.
pub(super) struct Permits {
    free: Arc<Semaphore>,
    size: usize,
    /// The permits for leasing ahead, while nothing is leased ahead.
    withheld: Mutex<Option<OwnedSemaphorePermit>>,
    /// The most deliveries of one lease, if several leases are under way.
    share: usize,
    /// The least number of free permits that is worth a round trip.
    refill: u32,
}

/// One subscription as this worker runs it.
pub(super) struct Lane<S> {
    pub(super) subscription: Arc<Subscription<S>>,
    pub(super) measures: Arc<Measures>,
    pub(super) route: Route,
    pub(super) permits: Arc<Permits>,
    /// Cancelled when the subscription was dropped: the lane stops.
    pub(super) dropped: CancellationToken,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            subscription: Arc::clone(&self.subscription),
            measures: Arc::clone(&self.measures),
            route: self.route.clone(),
            permits: Arc::clone(&self.permits),
            dropped: self.dropped.clone(),
        }
    }
}

impl<S> Lane<S> {
    /// `leases_at_once`: [`Broker::leases_at_once`](crate::Broker::leases_at_once).
    pub(super) fn new(subscription: Subscription<S>, route: Route, leases_at_once: usize) -> Self {
        let concurrency = subscription.policy.concurrency;
        let size = concurrency * 2;
        let permits = Permits {
            free: Arc::new(Semaphore::new(size)),
            size,
            withheld: Mutex::default(),
            share: size / leases_at_once,
            refill: (concurrency / 2).max(1) as u32,
        };
        Self {
            measures: Arc::new(Measures::of(&subscription.name)),
            subscription: Arc::new(subscription),
            route,
            permits: Arc::new(permits),
            dropped: CancellationToken::new(),
        }
    }
}

/// Leases and queues deliveries until the worker stops or the subscription is dropped.
/// Queued deliveries that have not begun go back then, or when a suspect has to run alone.
pub(super) async fn lease_and_queue<S: Send + Sync + 'static>(core: Arc<Core<S>>, lane: Lane<S>) {
    let Lane {
        subscription,
        measures,
        route,
        permits,
        dropped,
    } = lane;
    let queue = Queue::new(Arc::clone(&core), subscription, measures);
    let transport = core.broker.transport();
    let lease = async |permit: OwnedSemaphorePermit| {
        let max = permit.num_permits();
        let leased = transport.lease(&route, &core.id, max, WAIT).await;
        (leased, permit)
    };
    let mut under_way = FuturesUnordered::new();
    let mut backoff = None;
    loop {
        let (leased, permit) = tokio::select! {
            biased;
            // First, so that leased deliveries are queued: the queue gives them back.
            Some(ended) = under_way.next() => ended,
            () = core.stop.cancelled() => break,
            () = dropped.cancelled() => break,
            () = core.until_alone(true), if !under_way.is_empty() => {
                under_way.clear();
                continue;
            }
            permit = permits.take(&core, &queue), if under_way.len() < core.broker.leases_at_once() => {
                let Some(permit) = permit else { break };
                under_way.push(lease(permit));
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
                    lease_outages::log_soon(&core, &route.name, None);
                }
                if !leased.is_empty() {
                    fault::point!("lease.leased", no error);
                }
                let few = leased.len() < permit.num_permits() / 2;
                queue.add(leased, permit);
                if few {
                    // They begin before more is asked for. With a backlog, the next lease is
                    // under way meanwhile.
                    let_others_go_first().await;
                }
            }
            Err(error) => {
                if backoff.is_none() {
                    lease_outages::log_soon(&core, &route.name, Some(&error));
                }
                under_way.clear();
                drop(permit);
                let wait: Duration = backoff.unwrap_or(FIRST_BACKOFF);
                backoff = Some((wait * 2).min(LAST_BACKOFF));
                let jitter = wait.mul_f64(0.5 + 0.5 * core.broker.db().clock().random());
                tokio::select! {
                    () = core.stop.cancelled() => break,
                    () = dropped.cancelled() => break,
                    () = core.until_alone(true) => {}
                    () = tokio::time::sleep(jitter) => {}
                }
            }
        }
    }
    queue.give_back();
}

impl Permits {
    /// Takes the free permits once they are worth a lease. Returns `None` if the worker
    /// stops.
    async fn take<S: Send + Sync + 'static>(
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
                permit = self.take_free(core, queue) => return permit,
            }
            tokio::select! {
                () = core.stop.cancelled() => return None,
                () = core.until_alone(false) => {}
            }
        }
    }

    /// Takes permits for deliveries that can begin now, and while handlers are short for
    /// deliveries that are leased ahead.
    async fn take_free<S: Send + Sync + 'static>(
        &self,
        core: &Core<S>,
        queue: &Queue<S>,
    ) -> Option<OwnedSemaphorePermit> {
        loop {
            let ahead = queue.is_short();
            let permit = if ahead {
                self.withheld.lock().take();
                self.take_some(self.refill, self.share).await?
            } else {
                self.withhold().await?;
                // One of the process's permits has to be free as well.
                drop(core.permits.acquire().await.ok()?);
                let free = core.permits.available_permits().max(1);
                self.take_some(1, self.share.min(free)).await?
            };
            // Handlers may have become slow while this waited.
            if ahead == queue.is_short() || !ahead {
                return Some(permit);
            }
        }
    }

    /// Waits for `few` permits and takes up to `most` that are free.
    async fn take_some(&self, few: u32, most: usize) -> Option<OwnedSemaphorePermit> {
        let acquired = Arc::clone(&self.free).acquire_many_owned(few).await;
        let mut permit = acquired.ok()?;
        let more = most.saturating_sub(few as usize);
        let more = self.free.available_permits().min(more) as u32;
        if let Ok(more) = Arc::clone(&self.free).try_acquire_many_owned(more) {
            permit.merge(more);
        }
        Some(permit)
    }

    /// Withholds the permits for leasing ahead once they are free.
    async fn withhold(&self) -> Option<()> {
        if self.withheld.lock().is_none() {
            let ahead = (self.size / 2) as u32;
            let ahead = Arc::clone(&self.free).acquire_many_owned(ahead).await;
            *self.withheld.lock() = Some(ahead.ok()?);
        }
        Some(())
    }

    /// Takes every permit: resolves when this lane has nothing leased. Until they are
    /// given back, the lane withholds none.
    pub(super) async fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        self.withheld.lock().take();
        let all = Arc::clone(&self.free).acquire_many_owned(self.size as u32);
        all.await.ok()
    }
}
