//! The worker leases deliveries, runs handlers and settles.
//!
//! Each subscription has a lane that leases (`lane`) and runs attempts (`queue`, `attempt`,
//! `outcome`); it leases ahead only if attempts are short (`durations`). One settler writes
//! outcomes in batches (`settler`). A delivery that may have killed its process runs alone
//! (`suspects`). Leases are renewed on a thread of their own (`renewal`), so that a handler
//! that blocks the runtime keeps its lease. The rest is housekeeping (`upkeep`, `presence`,
//! `dropped`).

mod attempt;
mod bus;
mod dropped;
mod durations;
mod lane;
mod lease_outages;
mod measures;
mod outcome;
mod presence;
mod queue;
mod renewal;
mod settler;
mod suspects;
mod upkeep;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::delivery::{Route, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::guard;
use crate::ledger::{
    self,
    workers::{self, WorkerRow},
};
use crate::registry::Registry;
use crate::schedule::ticker;
use crate::subscription::LONGEST_TIMEOUT;
use crate::task::lasting;

use lane::Lane;
use lease_outages::LeaseOutages;
use renewal::Renewal;
use settler::Settler;

/// Time for running handlers to finish after a shutdown signal.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(25);
const DEFAULT_CONCURRENCY: usize = 64;

/// Runs a registry's handlers and schedules.
///
/// `T` becomes the registry's state `S` when [`Worker::state`] is called; only then can the
/// worker run ([`StateFor`]).
pub struct Worker<S, T = S> {
    broker: Broker,
    registry: Registry<S>,
    state: T,
    concurrency: usize,
    grace: Duration,
    kill: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S> Worker<S, ()> {
    /// A worker for everything in `registry`.
    pub fn new(broker: Broker, registry: Registry<S>) -> Self {
        Self {
            broker,
            registry,
            state: (),
            concurrency: DEFAULT_CONCURRENCY,
            grace: DEFAULT_GRACE,
            kill: Box::pin(std::future::pending()),
        }
    }
}

impl<S, T> Worker<S, T> {
    /// Sets the state that handlers extract with [`State`](crate::handler::State).
    pub fn state(self, state: S) -> Worker<S> {
        Worker {
            broker: self.broker,
            registry: self.registry,
            state,
            concurrency: self.concurrency,
            grace: self.grace,
            kill: self.kill,
        }
    }

    /// Sets the number of attempts that run at once in this process (default: 64), within each
    /// subscription's own limit. `usize::MAX` means no limit but theirs.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Sets the time for running handlers to finish after the shutdown signal (default: 25 seconds,
    /// at most 30 days). Then they are dropped and their deliveries released; no attempt is
    /// counted.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(LONGEST_TIMEOUT);
        self
    }

    /// Sets a second signal (default: none): when it resolves, the grace ends at once.
    pub fn kill(mut self, kill: impl Future<Output = ()> + Send + 'static) -> Self {
        self.kill = Box::pin(kill);
        self
    }
}

/// Implemented for the state `S` alone, so that a worker without the state of its handlers
/// does not compile.
#[diagnostic::on_unimplemented(
    message = "this worker has no state yet",
    label = "its handlers want the state `{S}`",
    note = "give it before running: `Worker::new(broker, registry).state(state).run(shutdown)`"
)]
pub trait StateFor<S>: sealed::Sealed<S> {}

impl<S> StateFor<S> for S {}

mod sealed {
    pub trait Sealed<S> {
        fn state(self) -> S;
    }

    impl<S> Sealed<S> for S {
        fn state(self) -> S {
            self
        }
    }
}

impl<S: Send + Sync + 'static, T> Worker<S, T> {
    /// Registers the registry, then handles deliveries and publishes the ticks of its
    /// schedules until `shutdown` resolves. Then it leases nothing more, lets running handlers
    /// finish within the grace, releases the rest and returns.
    ///
    /// The start waits up to a minute for a database that another process keeps locked. An
    /// outage of the database or the broker does not end a running worker: it logs, waits and
    /// goes on.
    ///
    /// # Errors
    /// The errors of [`Broker::register`]; and `is_invalid()` if a live worker of this database
    /// uses another transport: neither would find the deliveries of the other. The worker has
    /// not started.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error>
    where
        T: StateFor<S>,
    {
        tokio::pin!(shutdown);
        let row = presence::row(&self.broker, &self.registry, self.concurrency);
        let declared = async {
            presence::refuse_another_mode(&self.broker).await?;
            self.broker.declare_for(&self.registry, Some(&row)).await
        };
        let routes = tokio::select! {
            routes = declared => routes?,
            () = &mut shutdown => return Ok(()),
        };
        let Self {
            broker,
            registry,
            state,
            concurrency,
            grace,
            kill,
        } = self;
        let renewal = Renewal::start(broker.clone())?;
        let core = Core::new(row, broker, state.state(), concurrency, renewal);
        tracing::info!(
            worker.id = %core.id,
            subscriptions = routes.len(),
            schedules = registry.schedules.len(),
            concurrency,
            "worker started"
        );
        let at_once = core.broker.leases_at_once();
        let lanes: Vec<_> = registry
            .subscriptions
            .iter()
            .zip(&routes)
            .map(|(subscription, route)| Lane::new(subscription.clone(), route.clone(), at_once))
            .collect();
        let housekeeping = TaskTracker::new();
        start_housekeeping(&core, &registry, &routes, &lanes, &housekeeping);
        for lane in &lanes {
            let (core, lane) = (Arc::clone(&core), lane.clone());
            core.tasks.clone().spawn(lasting("lane", move || {
                lane::lease_and_queue(Arc::clone(&core), lane.clone())
            }));
        }
        let alone = Arc::clone(&core);
        core.tasks.spawn(lasting("suspects", move || {
            suspects::run_suspects(Arc::clone(&alone), lanes.clone())
        }));
        core.tasks.close();
        shutdown.await;
        let began = tokio::time::Instant::now();
        let in_time = stop(&core, grace, kill).await;
        let last = if in_time {
            began + grace
        } else {
            tokio::time::Instant::now()
        } + LAST;
        housekeeping.close();
        let left = async {
            housekeeping.wait().await;
            leave(&core, &routes).await;
        };
        if tokio::time::timeout_at(last, left).await.is_err() {
            tracing::warn!(worker.id = %core.id, "the database or the broker does not respond in time: the worker ends without deleting its row");
        }
        // The state and the closures are user code.
        if let Err(panicked) = guard::discard((core, registry)) {
            tracing::error!(error = %panicked, "the worker's state panicked when it was dropped");
        }
        Ok(())
    }
}

/// State shared by all parts of one running worker.
pub(crate) struct Core<S> {
    id: WorkerId,
    /// Its row in the ledger.
    row: WorkerRow,
    broker: Broker,
    state: S,
    /// One permit per attempt that may run in this process.
    permits: Arc<Semaphore>,
    running: AtomicU64,
    settler: Settler,
    renewal: Renewal,
    lease_outages: LeaseOutages,
    /// Lanes, the attempts they started, and the log lines about their outages.
    tasks: TaskTracker,
    /// A suspect runs alone, or is about to: no leasing meanwhile.
    alone: watch::Sender<bool>,
    /// No more leasing, no more ticks.
    stop: CancellationToken,
    /// The grace is over: running handlers are dropped.
    abort: CancellationToken,
    /// Housekeeping ends: after the last settlement.
    end: CancellationToken,
}

impl<S> Core<S> {
    fn new(
        row: WorkerRow,
        broker: Broker,
        state: S,
        concurrency: usize,
        renewal: Renewal,
    ) -> Arc<Self> {
        Arc::new(Self {
            settler: Settler::start(broker.clone()),
            id: row.id.clone(),
            row,
            broker,
            state,
            permits: Arc::new(Semaphore::new(concurrency)),
            running: AtomicU64::new(0),
            renewal,
            lease_outages: LeaseOutages::default(),
            tasks: TaskTracker::new(),
            alone: watch::Sender::new(false),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            end: CancellationToken::new(),
        })
    }

    /// Resolves when a suspect wants to run alone, or no longer does.
    async fn until_alone(&self, alone: bool) {
        // The sender lives as long as we do.
        let _ = self.alone.subscribe().wait_for(|now| *now == alone).await;
    }

    fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }
}

fn start_housekeeping<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    registry: &Registry<S>,
    routes: &[Route],
    lanes: &[Lane<S>],
    tasks: &TaskTracker,
) {
    let db = core.broker.db().clone();
    let (all, stop) = (registry.schedules.clone(), core.stop.clone());
    let on = db.clone();
    tasks.spawn(lasting("ticker", move || {
        ticker::publish_ticks(on.clone(), all.clone(), stop.clone())
    }));
    let (of, all) = (Arc::clone(core), routes.to_vec());
    tasks.spawn(lasting("upkeep", move || {
        upkeep::maintain_broker(
            of.broker.clone(),
            of.id.clone(),
            all.clone(),
            of.end.clone(),
        )
    }));
    let (on, stop) = (db.clone(), core.stop.clone());
    tasks.spawn(lasting("retention", move || {
        upkeep::retain(on.clone(), stop.clone())
    }));
    let (on, stop) = (db.clone(), core.stop.clone());
    tasks.spawn(lasting("forward", move || {
        upkeep::forward(on.clone(), stop.clone())
    }));
    let (on, stop) = (db.clone(), core.stop.clone());
    tasks.spawn(lasting("retained events", move || {
        upkeep::retained(on.clone(), stop.clone())
    }));
    let known = ledger::readable(&registry.declaration(), routes);
    let stop = core.stop.clone();
    tasks.spawn(lasting("release", move || {
        upkeep::release(db.clone(), known.clone(), stop.clone())
    }));
    let (of, lanes) = (Arc::clone(core), lanes.to_vec());
    tasks.spawn(lasting("presence", move || {
        presence::report(Arc::clone(&of), lanes.clone())
    }));
    #[cfg(feature = "redis")]
    if let Some(bridge) = core
        .broker
        .bridge(registry.wire_names(), &core.id, &core.stop)
    {
        tasks.spawn(bridge);
    }
}

/// Drains: running handlers get the grace period, then they are dropped. Returns whether all of
/// them finished.
async fn stop<S>(core: &Core<S>, grace: Duration, kill: impl Future<Output = ()>) -> bool {
    core.stop.cancel();
    tracing::info!(worker.id = %core.id, running = core.running(), grace_seconds = grace.as_secs(), "worker stopping");
    let drained = core.tasks.wait();
    tokio::pin!(drained);
    let in_time = tokio::select! {
        () = &mut drained => true,
        () = tokio::time::sleep(grace) => false,
        () = kill => false,
    };
    if !in_time {
        tracing::warn!(worker.id = %core.id, running = core.running(), "the grace is over: running handlers are dropped and their deliveries released");
        core.abort.cancel();
        // Dropping is immediate unless a handler blocks its thread; then its
        // lease runs out instead.
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
    }
    core.renewal.stop();
    core.end.cancel();
    in_time
}

/// Extra time after its grace period in which a stopping worker tries to sign off if the database
/// does not respond.
const LAST: Duration = Duration::from_secs(1);

async fn leave<S>(core: &Core<S>, routes: &[Route]) {
    let left = async {
        fault::point!("leave.before");
        core.broker.transport().leave(&core.id, routes).await?;
        fault::point!("leave.given_back");
        workers::delete(core.broker.db(), &core.id).await
    };
    if let Err(error) = left.await {
        tracing::warn!(worker.id = %core.id, error = ?error, "the worker ends without deleting its row");
    }
    tracing::info!(worker.id = %core.id, "worker stopped");
}
