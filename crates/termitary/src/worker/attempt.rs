//! One attempt, from leased to settled:
//! wait for a permit → decode → extract → run → classify → settle → report.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument;

use super::Core;
use super::durations::SHORT;
use super::measures::Measures;
use super::outcome::{HandlerEnd, classify, failed, release};
use super::queue::Queued;
use super::renewal::Tracked;
use super::settler::Kept;
use crate::delivery::{Leased, Outcome, Settlement};
use crate::fault;
use crate::guard;
use crate::handler::{Context, LedgerScope, Meta};
use crate::subscription::Subscription;
use crate::trace;

/// Runs one queued delivery to its settlement.
pub(super) async fn run_queued<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    queued: Queued,
) -> Turn {
    let permit = match permit(core).await {
        Ok(permit) => permit,
        Err(why) => {
            give_back(core, queued);
            return why;
        }
    };
    let (leased, tracked) = (&queued.leased, &queued.tracked);
    let (outcome, took) = attempt(core, subscription, measures, leased, tracked).await;
    drop(permit);
    settle_queued(core, queued, outcome);
    Turn::Ran(took)
}

/// The result of a delivery's turn to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It ran for this long.
    Ran(Duration),
    /// It went back, as all permits of the process were taken for too long.
    NoPermit,
    /// It went back, as the worker stops or a suspect has to run alone.
    Stopped,
}

/// Makes a delivery that has not begun due again at once.
pub(super) fn give_back<S>(core: &Core<S>, queued: Queued) {
    settle_queued(core, queued, Some(release(core)));
}

fn settle_queued<S>(core: &Core<S>, queued: Queued, outcome: Option<Outcome>) {
    let Queued {
        leased,
        tracked,
        permit,
        ..
    } = queued;
    settle(core, leased, outcome, tracked, Some(permit), None);
}

/// Runs a leased suspect to its settlement. The caller makes sure that nothing else runs.
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
    let _ = settled.await; // closed, never sent to
}

/// Returns the outcome, or `None` if the delivery is no longer this worker's, and the
/// duration. A panic outside user code (of a metrics recorder or a log subscriber) is an
/// error of this attempt as well.
async fn attempt<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    leased: &Leased,
    tracked: &Tracked,
) -> (Option<Outcome>, Duration) {
    let started = Instant::now();
    let attempt = pin!(run_and_classify(
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
async fn run_and_classify<S: Send + Sync + 'static>(
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

/// Waits for one of the process's permits. Returns why the delivery has to go back if
/// none is free soon.
async fn permit<S>(core: &Core<S>) -> Result<OwnedSemaphorePermit, Turn> {
    let permits = Arc::clone(&core.permits);
    if core.stop.is_cancelled() {
        return Err(Turn::Stopped);
    }
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Ok(permit);
    }
    tokio::select! {
        biased;
        () = core.stop.cancelled() => Err(Turn::Stopped),
        permit = permits.acquire_owned() => permit.map_err(|_| Turn::Stopped),
        () = core.until_alone(true) => Err(Turn::Stopped),
        () = tokio::time::sleep(SHORT) => Err(Turn::NoPermit),
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
        // The first attempt belongs to the publisher's trace; each later one has its own.
        traceparent: trace::child_of(
            envelope
                .traceparent
                .as_deref()
                .filter(|_| leased.attempts == 0),
        ),
    }
}

/// Decodes, extracts and runs within the timeout; panics are caught.
async fn execute<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    leased: &Leased,
    meta: &Arc<Meta>,
    ledger: &Arc<LedgerScope>,
    tracked: &Tracked,
) -> HandlerEnd {
    if let Err(unfit) = subscription.fits(&leased.envelope) {
        return HandlerEnd::Unfit(unfit);
    }
    let context = Context {
        state: &core.state,
        meta,
        ledger,
        shutdown: &core.stop,
    };
    let handler = match guard::call(|| subscription.handler.start(&leased.envelope, &context)) {
        Ok(Ok(handler)) => handler,
        Ok(Err(undecodable)) => return HandlerEnd::Unfit(undecodable.into()),
        Err(panicked) => return HandlerEnd::Failed(panicked.to_string()),
    };
    let scope = trace::TraceContext {
        traceparent: Some(meta.traceparent.clone()),
        cause: Some(meta.event_id),
    };
    let timeout = subscription.policy.timeout;
    let owner = Arc::clone(ledger) as Arc<dyn trace::Owner>;
    let mut handler = guard::future(handler);
    let ended = tokio::select! {
        biased;
        ended = trace::scope_of(owner, scope, &mut handler) => match ended {
            Ok(result) => HandlerEnd::Returned(result),
            Err(panicked) => HandlerEnd::Failed(panicked.to_string()),
        },
        () = core.abort.cancelled() => HandlerEnd::Interrupted,
        ended = lost(tracked, ledger) => ended,
        () = tokio::time::sleep(timeout) => HandlerEnd::Failed(format!("timed out after {timeout:?}")),
    };
    // A handler that returned is gone already; any other is dropped now.
    match handler.cancel() {
        Ok(()) => ended,
        Err(panicked) => ended.dropped(&panicked),
    }
}

/// Resolves when another worker has the delivery, or its transaction did nothing for too
/// long. A renewal also fails for a delivery that the handler's own transaction has just
/// finished: such a handler runs to its end.
async fn lost(tracked: &Tracked, ledger: &LedgerScope) -> HandlerEnd {
    let reason = tracked.lost().await;
    if ledger.finishing() {
        std::future::pending::<()>().await;
    }
    match reason {
        Some(reason) => HandlerEnd::Failed(reason.to_owned()),
        None => HandlerEnd::LostLease,
    }
}

/// Passes the outcome to the settler, which keeps the lease and the permit until the
/// settlement is written.
fn settle<S>(
    core: &Core<S>,
    leased: Leased,
    outcome: Option<Outcome>,
    lease: Tracked,
    permit: Option<OwnedSemaphorePermit>,
    waiter: Option<oneshot::Sender<()>>,
) {
    // Without an outcome the delivery is another worker's, by the ledger. This worker may
    // still hold the stream entry that carried it: that ends, and nothing else changes.
    let outcome = outcome.unwrap_or(Outcome::Done { committed: true });
    let settlement = Settlement {
        claim: leased.claim,
        outcome,
    };
    let kept = Kept {
        _lease: lease,
        _permit: permit,
        _task: core.tasks.token(),
        _waiter: waiter,
    };
    core.settler.settle(settlement, kept);
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

/// Counts a running attempt until it is dropped.
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
