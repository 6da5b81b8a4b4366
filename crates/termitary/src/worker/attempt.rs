//! One attempt, from leased to settled:
//! wait for a place → decode → extract → run → classify → settle → report.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument;

use super::Core;
use super::ended::{Ended, classify, failed, release};
use super::measures::Measures;
use super::pace::SHORT;
use super::queue::Waiting;
use super::renewal::Tracked;
use super::settler::Held;
use crate::db::Owner;
use crate::delivery::{Leased, Outcome, Settlement};
use crate::fault;
use crate::guard;
use crate::handler::{Context, LedgerScope, Meta};
use crate::subscription::Subscription;
use crate::trace;

/// Runs one leased delivery to its settlement. Returns the time that its
/// attempt took, unless there was none.
pub(super) async fn run<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    waiting: Waiting,
) -> Took {
    let place = match place(core).await {
        Ok(place) => place,
        Err(why) => {
            give_back(core, waiting);
            return why;
        }
    };
    let (leased, tracked) = (&waiting.leased, &waiting.tracked);
    let (outcome, took) = attempt(core, subscription, measures, leased, tracked).await;
    drop(place);
    end(core, waiting, outcome);
    Took::Time(took)
}

/// The result of a delivery's turn to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// The attempt took this long.
    Time(Duration),
    /// It went back: the process's places were taken for long.
    NoPlace,
    /// It went back: the worker stops, or a suspect is to run alone.
    Stopped,
}

/// Not begun, and due again at once.
pub(super) fn give_back<S>(core: &Core<S>, waiting: Waiting) {
    end(core, waiting, Some(release(core)));
}

fn end<S>(core: &Core<S>, waiting: Waiting, outcome: Option<Outcome>) {
    let Waiting {
        leased,
        tracked,
        claim,
        ..
    } = waiting;
    settle(core, leased, outcome, tracked, Some(claim), None);
}

/// Runs a leased suspect; the caller has ensured that nothing else runs. Returns when it is
/// settled.
pub(super) async fn run_alone<S: Send + Sync + 'static>(
    core: Arc<Core<S>>,
    subscription: Arc<Subscription<S>>,
    measures: Arc<Measures>,
    leased: Leased,
) {
    let tracked = core
        .renewal
        .track(&leased.claim, subscription.policy.timeout);
    let (outcome, _) = attempt(&core, &subscription, &measures, &leased, &tracked).await;
    let (waiter, settled) = oneshot::channel();
    settle(&core, leased, outcome, tracked, None, Some(waiter));
    let _ = settled.await; // nothing is ever sent: it is dropped
}

/// One attempt and its time. `None`: the delivery is no longer ours. A panic
/// outside user code (a metrics recorder, a log's subscriber) is an error of
/// this attempt as well.
async fn attempt<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    leased: &Leased,
    tracked: &Tracked,
) -> (Option<Outcome>, Duration) {
    let started = Instant::now();
    let attempt = pin!(judged(
        core,
        subscription,
        measures,
        leased,
        tracked,
        started
    ));
    guard::future(attempt).await.unwrap_or_else(|panicked| {
        let outcome = failed(core, subscription, leased, panicked.to_string(), None);
        (Some(outcome), started.elapsed())
    })
}

/// Decodes, runs, classifies and reports.
async fn judged<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    leased: &Leased,
    tracked: &Tracked,
    started: Instant,
) -> (Option<Outcome>, Duration) {
    let running = Running::new(core);
    let meta = Arc::new(meta(subscription, leased));
    let span = tracing::info_span!(
        "attempt",
        event.name = %meta.event_name,
        event.id = %meta.event_id,
        subscription = %meta.subscription,
        attempt = meta.attempt,
        trace = trace::trace_id(&meta.traceparent),
    );
    let scope = LedgerScope::new(core.broker.db().clone(), leased.claim.clone());
    let lease = core.broker.lease_time();
    let scope = Arc::new(scope.of(Arc::clone(&meta), lease, tracked.end()));
    fault::point!("handler.before", no error);
    let ended = execute(core, subscription, leased, &meta, &scope, tracked)
        .instrument(span.clone())
        .await;
    fault::point!("handler.after", no error);
    let outcome = classify(core, subscription, leased, &scope, ended);
    drop(running);
    let took = started.elapsed();
    report(measures, &span, outcome.as_ref(), took);
    (outcome, took)
}

/// Waits for one of the process's slots; if none is free soon, returns why the waiting deliveries
/// are released.
async fn place<S>(core: &Core<S>) -> Result<OwnedSemaphorePermit, Took> {
    let places = Arc::clone(&core.permits);
    if core.stop.is_cancelled() {
        return Err(Took::Stopped);
    }
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Ok(place);
    }
    tokio::select! {
        biased;
        () = core.stop.cancelled() => Err(Took::Stopped),
        place = places.acquire_owned() => place.map_err(|_| Took::Stopped),
        () = core.until_alone(true) => Err(Took::Stopped),
        () = tokio::time::sleep(SHORT) => Err(Took::NoPlace),
    }
}

fn meta<S>(subscription: &Subscription<S>, leased: &Leased) -> Meta {
    let envelope = &leased.envelope;
    Meta {
        event_id: envelope.id,
        event_name: envelope.name.clone(),
        published_at: envelope.time,
        key: envelope.key.clone(),
        subscription: subscription.name.clone(),
        attempt: leased.attempts + 1,
        fence: leased.claim.fence,
        // The first attempt belongs to the publisher's trace; a later one is
        // a trace of its own.
        traceparent: trace::child_of(
            envelope
                .traceparent
                .as_deref()
                .filter(|_| leased.attempts == 0),
        ),
    }
}

/// Decode → extract → run, within the timeout; panics are caught.
async fn execute<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    leased: &Leased,
    meta: &Arc<Meta>,
    ledger: &Arc<LedgerScope>,
    tracked: &Tracked,
) -> Ended {
    if !subscription
        .names()
        .any(|name| name == leased.envelope.name)
    {
        return Ended::UnknownName;
    }
    if leased.envelope.version > subscription.version {
        return Ended::NewerVersion(leased.envelope.version);
    }
    let context = Context {
        state: &core.state,
        meta,
        ledger,
        shutdown: &core.stop,
    };
    let handler = match guard::call(|| subscription.handler.start(&leased.envelope, &context)) {
        Ok(Ok(handler)) => handler,
        Ok(Err(undecodable)) => return Ended::Undecodable(undecodable),
        Err(panicked) => return Ended::Failed(panicked.to_string()),
    };
    let scope = trace::TraceContext {
        traceparent: Some(meta.traceparent.clone()),
        cause: Some(meta.event_id),
    };
    let timeout = subscription.policy.timeout;
    let owner = Arc::clone(ledger) as Arc<dyn Owner>;
    let mut handler = guard::future(handler);
    let ended = tokio::select! {
        biased;
        ended = trace::scope_of(owner, scope, &mut handler) => match ended {
            Ok(result) => Ended::Returned(result),
            Err(panicked) => Ended::Failed(panicked.to_string()),
        },
        () = core.abort.cancelled() => Ended::Interrupted,
        ended = lost(tracked, ledger) => ended,
        () = tokio::time::sleep(timeout) => Ended::Failed(format!("timed out after {timeout:?}")),
    };
    // A handler that is ready is gone already; any other is dropped now.
    match handler.cancel() {
        Ok(()) => ended,
        Err(panicked) => ended.dropped(&panicked),
    }
}

/// Resolves when another worker has the delivery, or the transaction stalled. The renewal also
/// fails after the handler's own transaction has finished the delivery: that attempt continues to
/// its end.
async fn lost(tracked: &Tracked, ledger: &LedgerScope) -> Ended {
    let reason = tracked.lost().await;
    if ledger.finishing() {
        std::future::pending::<()>().await;
    }
    match reason {
        Some(reason) => Ended::Failed(reason.to_owned()),
        None => Ended::LostLease,
    }
}

/// Hands over to the settler, which holds the lease and the place until the
/// settlement is real.
fn settle<S>(
    core: &Core<S>,
    leased: Leased,
    outcome: Option<Outcome>,
    lease: Tracked,
    claim: Option<OwnedSemaphorePermit>,
    waiter: Option<oneshot::Sender<()>>,
) {
    // The claim is lost: another worker has it in the ledger. The entry that carried it may be left
    // here; it is ended, and nothing else changes.
    let outcome = outcome.unwrap_or(Outcome::Done { committed: true });
    let settlement = Settlement {
        claim: leased.claim,
        outcome,
    };
    let held = Held {
        _lease: lease,
        _claim: claim,
        _task: core.tasks.token(),
        _waiter: waiter,
    };
    core.settler.settle(settlement, held);
}

fn report(measures: &Measures, span: &tracing::Span, outcome: Option<&Outcome>, took: Duration) {
    let name = measures.attempt(outcome, took);
    let _entered = span.enter();
    match outcome {
        Some(Outcome::Done { .. } | Outcome::Snooze { .. }) => {
            tracing::debug!(outcome = name, "attempt ended");
        }
        Some(
            Outcome::Retry { error, .. }
            | Outcome::Dead { error, .. }
            | Outcome::Parked { error, .. },
        ) => {
            tracing::warn!(outcome = name, error = %error, "attempt ended");
        }
        None => tracing::warn!(
            outcome = name,
            "the lease was lost: another worker has the delivery"
        ),
    }
}

/// Counts a running attempt for as long as it lives.
struct Running<'a, S>(&'a Core<S>);

impl<'a, S> Running<'a, S> {
    fn new(core: &'a Core<S>) -> Self {
        core.running.fetch_add(1, Ordering::Relaxed);
        Self(core)
    }
}

impl<S> Drop for Running<'_, S> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
