//! The deliveries that one subscription has leased and not begun, and the tasks that run
//! them.
//!
//! A runner is a task that takes one delivery after the other, as a task for each would
//! cost more than a short handler. Each runner starts another while deliveries are queued,
//! up to the subscription's concurrency.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Core;
use super::attempt::{self, Turn};
use super::durations::{Durations, SHORT};
use super::measures::Measures;
use super::renewal::Tracked;
use crate::delivery::Leased;
use crate::lock::Mutex;
use crate::subscription::Subscription;

/// Cheap to clone.
pub(super) struct Queue<S>(Arc<Inner<S>>);

struct Inner<S> {
    core: Arc<Core<S>>,
    subscription: Arc<Subscription<S>>,
    measures: Arc<Measures>,
    state: Mutex<State>,
    /// The most runners that may be starting at once: the number of the runtime's threads.
    /// A handler that blocks its thread delays the runner that it started.
    threads: usize,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Queued>,
    runners: usize,
    /// The number of runners that have not begun.
    starting: usize,
    durations: Durations,
}

/// A leased delivery that is renewed, and its permit.
pub(super) struct Queued {
    since: Instant,
    pub(super) leased: Leased,
    pub(super) tracked: Tracked,
    pub(super) permit: OwnedSemaphorePermit,
}

impl<S: Send + Sync + 'static> Queue<S> {
    pub(super) fn new(
        core: Arc<Core<S>>,
        subscription: Arc<Subscription<S>>,
        measures: Arc<Measures>,
    ) -> Self {
        Self(Arc::new(Inner {
            core,
            subscription,
            measures,
            state: Mutex::default(),
            threads: Handle::current().metrics().num_workers(),
        }))
    }

    /// Queues deliveries, each with one of the `permits`.
    pub(super) fn add(&self, leased: Vec<Leased>, mut permits: OwnedSemaphorePermit) {
        let timeout = self.0.subscription.policy.timeout;
        let tracked = self.0.core.renewal.track_all(&leased, timeout);
        let since = Instant::now();
        let mut state = self.0.state.lock();
        for (leased, tracked) in leased.into_iter().zip(tracked) {
            let Some(permit) = permits.split(1) else {
                tracing::error!(subscription = %self.0.subscription.name, "the broker leased more deliveries than it was asked for");
                break;
            };
            state.queued.push_back(Queued {
                since,
                leased,
                tracked,
                permit,
            });
        }
        for _ in 0..self.0.threads {
            self.start_another(&mut state);
        }
    }

    /// Returns whether handlers are known to be short: only then are deliveries leased ahead.
    pub(super) fn is_short(&self) -> bool {
        self.0.state.lock().durations.is_short()
    }

    /// Resolves when the first delivery has been queued for longer than a short handler
    /// takes.
    pub(super) async fn waits_long(&self) {
        loop {
            let first = self.0.state.lock().queued.front().map(|first| first.since);
            match first.map(|since| since + SHORT) {
                Some(long) if long <= Instant::now() => return,
                Some(long) => tokio::time::sleep_until(long).await,
                // The lane calls this again after it adds to the queue.
                None => std::future::pending().await,
            }
        }
    }

    /// Gives back everything that is queued; no attempt is counted.
    pub(super) fn give_back(&self) {
        let queued = std::mem::take(&mut self.0.state.lock().queued);
        self.0.give_back(queued);
    }

    /// [`Queue::give_back`], and nothing is leased ahead until handlers are known to be
    /// short again.
    pub(super) fn lease_no_more_ahead(&self) {
        self.0.state.lock().durations = Durations::default();
        self.give_back();
    }

    fn start_another(&self, state: &mut State) {
        let inner = &self.0;
        let room = state.runners < inner.subscription.policy.concurrency;
        if room && state.starting < inner.threads.min(state.queued.len()) {
            state.runners += 1;
            state.starting += 1;
            let queue = Self(Arc::clone(inner));
            inner.core.tasks.spawn(queue.run_queued());
        }
    }

    /// A runner: returns when nothing is queued.
    async fn run_queued(self) {
        let mut runner = Runner {
            queue: &self,
            counted: true,
        };
        self.0.state.lock().starting -= 1;
        let mut last = None;
        while let Some(next) = runner.next(last) {
            let inner = &self.0;
            let turn = attempt::run_queued(&inner.core, &inner.subscription, &inner.measures, next);
            last = Some(turn.await);
            // Many short handlers in a row must not keep the thread.
            tokio::task::coop::consume_budget().await;
        }
    }
}

/// A runner that counts as one until it finds nothing to run or panics.
struct Runner<'a, S: Send + Sync + 'static> {
    queue: &'a Queue<S>,
    counted: bool,
}

impl<S: Send + Sync + 'static> Runner<'_, S> {
    /// The next delivery to run, after the `last` turn.
    fn next(&mut self, last: Option<Turn>) -> Option<Queued> {
        let inner = &self.queue.0;
        let mut state = inner.state.lock();
        let ahead = state.durations.is_short();
        match last {
            Some(Turn::Ran(took)) => state.durations.add(took),
            Some(Turn::NoPermit) => state.durations = Durations::default(),
            Some(Turn::Stopped) | None => {}
        }
        let next = state.queued.pop_front();
        if next.is_none() {
            state.runners -= 1;
            self.counted = false;
        }
        let mut back = VecDeque::new();
        if ahead && !state.durations.is_short() {
            back = std::mem::take(&mut state.queued);
        }
        self.queue.start_another(&mut state);
        drop(state);
        inner.give_back(back);
        next
    }
}

impl<S: Send + Sync + 'static> Drop for Runner<'_, S> {
    fn drop(&mut self) {
        if self.counted {
            let mut state = self.queue.0.state.lock();
            state.runners -= 1;
            self.queue.start_another(&mut state);
        }
    }
}

impl<S> Inner<S> {
    fn give_back(&self, queued: impl IntoIterator<Item = Queued>) {
        for queued in queued {
            attempt::give_back(&self.core, queued);
        }
    }
}
