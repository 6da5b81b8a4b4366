//! The deliveries that one subscription has leased and not started, and the tasks that run them.
//!
//! A runner takes one delivery after the other: a task for each would cost more
//! than a short handler does. One starts the next as long as more waits, so that
//! there are as many as handlers wait at once, and never more than the
//! subscription's concurrency.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Core;
use super::attempt::{self, Took};
use super::measures::Measures;
use super::pace::{Pace, SHORT};
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
    /// As many runners may be on their way at once as the runtime has threads:
    /// a handler that blocks its thread holds up the one that it started.
    threads: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    runners: usize,
    /// Of these, how many have not begun.
    starting: usize,
    pace: Pace,
}

/// A leased delivery that is renewed, and its place among the claims.
pub(super) struct Waiting {
    since: Instant,
    pub(super) leased: Leased,
    pub(super) tracked: Tracked,
    pub(super) claim: OwnedSemaphorePermit,
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

    /// Queues leased deliveries, each with one of the `claims`.
    pub(super) fn add(&self, leased: Vec<Leased>, mut claims: OwnedSemaphorePermit) {
        let timeout = self.0.subscription.policy.timeout;
        let tracked = self.0.core.renewal.track_all(&leased, timeout);
        let since = Instant::now();
        let mut state = self.0.state.lock();
        for (leased, tracked) in leased.into_iter().zip(tracked) {
            let Some(claim) = claims.split(1) else {
                tracing::error!(subscription = %self.0.subscription.name, "the broker leased more than asked");
                break;
            };
            state.waiting.push_back(Waiting {
                since,
                leased,
                tracked,
                claim,
            });
        }
        for _ in 0..self.0.threads {
            self.start_another(&mut state);
        }
    }

    /// Returns whether handlers are known to be short: only then are deliveries leased ahead.
    pub(super) fn is_short(&self) -> bool {
        self.0.state.lock().pace.is_short()
    }

    /// Resolves when the first in the queue has waited for longer than a short
    /// handler takes.
    pub(super) async fn waits_long(&self) {
        loop {
            let first = self.0.state.lock().waiting.front().map(|first| first.since);
            match first.map(|since| since + SHORT) {
                Some(long) if long <= Instant::now() => return,
                Some(long) => tokio::time::sleep_until(long).await,
                // The task that adds to the queue checks again.
                None => std::future::pending().await,
            }
        }
    }

    /// Everything that is queued goes back, no attempt counted.
    pub(super) fn give_back(&self) {
        let waiting = std::mem::take(&mut self.0.state.lock().waiting);
        self.0.give_back(waiting);
    }

    /// The same, and nothing is leased ahead until handlers are known to be
    /// short again.
    pub(super) fn lease_no_more_ahead(&self) {
        self.0.state.lock().pace = Pace::default();
        self.give_back();
    }

    fn start_another(&self, state: &mut State) {
        let inner = &self.0;
        let room = state.runners < inner.subscription.policy.concurrency;
        if room && state.starting < inner.threads.min(state.waiting.len()) {
            state.runners += 1;
            state.starting += 1;
            let queue = Self(Arc::clone(inner));
            inner.core.tasks.spawn(queue.run());
        }
    }

    /// A runner, until nothing waits.
    async fn run(self) {
        let mut runner = Runner {
            queue: &self,
            counted: true,
        };
        self.0.state.lock().starting -= 1;
        let mut took = None;
        while let Some(next) = runner.next(took) {
            let inner = &self.0;
            let ran = attempt::run(&inner.core, &inner.subscription, &inner.measures, next);
            took = Some(ran.await);
            // A long row of short handlers is no reason to keep the thread.
            tokio::task::coop::consume_budget().await;
        }
    }
}

/// One of the runners that are counted. It is counted no longer once it found
/// nothing to run, or ended by a panic.
struct Runner<'a, S: Send + Sync + 'static> {
    queue: &'a Queue<S>,
    counted: bool,
}

impl<S: Send + Sync + 'static> Runner<'_, S> {
    /// The next delivery to run; if none is left, one runner less.
    fn next(&mut self, took: Option<Took>) -> Option<Waiting> {
        let inner = &self.queue.0;
        let mut state = inner.state.lock();
        let ahead = state.pace.is_short();
        match took {
            Some(Took::Time(took)) => state.pace.add(took),
            Some(Took::NoPlace) => state.pace = Pace::default(),
            Some(Took::Stopped) | None => {}
        }
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.runners -= 1;
            self.counted = false;
        }
        let mut back = VecDeque::new();
        if ahead && !state.pace.is_short() {
            back = std::mem::take(&mut state.waiting);
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
    fn give_back(&self, waiting: impl IntoIterator<Item = Waiting>) {
        for waiting in waiting {
            attempt::give_back(&self.core, waiting);
        }
    }
}
