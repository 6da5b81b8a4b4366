//! What one subscription has leased and not begun, and the tasks that run it.
//!
//! A runner takes one delivery after the other: a task for each would cost more
//! than a short handler does. One starts the next as long as more waits, so that
//! there are as many as handlers wait at once, and never more than the
//! subscription's concurrency.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::Core;
use super::attempt;
use super::measures::Measures;
use super::renewal::Tracked;
use crate::broker::Leased;
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
}

/// A leased delivery that is renewed, and its place among the claims.
pub(super) struct Waiting {
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

    /// Queues what was leased, each with one of the `claims`.
    pub(super) fn add(&self, leased: Vec<Leased>, mut claims: OwnedSemaphorePermit) {
        let timeout = self.0.subscription.policy.timeout;
        let tracked = self.0.core.renewal.track_all(&leased, timeout);
        let mut state = self.0.lock();
        for (leased, tracked) in leased.into_iter().zip(tracked) {
            let Some(claim) = claims.split(1) else {
                tracing::error!(subscription = %self.0.subscription.name, "the broker leased more than asked");
                break;
            };
            state.waiting.push_back(Waiting {
                leased,
                tracked,
                claim,
            });
        }
        for _ in 0..self.0.threads {
            self.start_another(&mut state);
        }
    }

    /// Everything that is queued goes back, no attempt counted.
    pub(super) fn give_back(&self) {
        let waiting = std::mem::take(&mut self.0.lock().waiting);
        for waiting in waiting {
            attempt::give_back(&self.0.core, waiting);
        }
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
        self.0.lock().starting -= 1;
        while let Some(next) = self.next() {
            attempt::run(&self.0.core, &self.0.subscription, &self.0.measures, next).await;
            // A long row of short handlers is no reason to keep the thread.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// What is to be run next; with nothing left, one runner less.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.0.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.runners -= 1;
        }
        self.start_another(&mut state);
        next
    }
}

impl<S> Inner<S> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
