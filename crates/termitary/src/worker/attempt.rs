//! One attempt, from leased to settled:
//! wait for a place → decode → extract → run → classify → settle → report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument;

use super::Core;
use super::measures::Measures;
use super::queue::Waiting;
use super::renewal::Tracked;
use super::settler::Held;
use crate::broker::{Leased, Outcome, Settlement};
use crate::clock::later;
use crate::fault;
use crate::handler::{
    Context, HandlerError, HandlerResult, LedgerScope, Meta, Undecodable, Verdict,
};
use crate::subscription::Subscription;
use crate::trace;

/// How one run of the handler ended, before the policy is asked.
enum Ended {
    Returned(HandlerResult),
    Panicked(String),
    TimedOut,
    Undecodable(Undecodable),
    NewerVersion(u32),
    /// The worker stops, or the lease is lost: nothing to say about the event.
    Interrupted,
    LostLease,
}

/// Runs one leased delivery to its settlement.
pub(super) async fn run<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    waiting: Waiting,
) {
    let Some(_place) = place(core).await else {
        give_back(core, waiting);
        return;
    };
    let outcome = attempt(
        core,
        subscription,
        measures,
        &waiting.leased,
        &waiting.tracked,
    )
    .await;
    end(core, waiting, outcome);
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
    } = waiting;
    settle(core, leased, outcome, tracked, Some(claim), None);
}

/// Runs a leased suspect; whoever calls has seen to it that nothing else runs.
/// Returns when it is settled.
pub(super) async fn run_alone<S: Send + Sync + 'static>(
    core: Arc<Core<S>>,
    subscription: Arc<Subscription<S>>,
    measures: Arc<Measures>,
    leased: Leased,
) {
    let tracked = core
        .renewal
        .track(&leased.claim, subscription.policy.timeout);
    let outcome = attempt(&core, &subscription, &measures, &leased, &tracked).await;
    let (waiter, settled) = oneshot::channel();
    settle(&core, leased, outcome, tracked, None, Some(waiter));
    let _ = settled.await; // nothing is ever sent: it is dropped
}

/// Decodes, runs and classifies. `None`: the delivery is no longer ours.
async fn attempt<S: Send + Sync + 'static>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    measures: &Measures,
    leased: &Leased,
    tracked: &Tracked,
) -> Option<Outcome> {
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
    let scope = Arc::new(LedgerScope::new(
        core.broker.db().clone(),
        leased.claim.clone(),
    ));
    let started = Instant::now();
    fault::point!("handler.before", no error);
    let ended = execute(core, subscription, leased, &meta, &scope, tracked)
        .instrument(span.clone())
        .await;
    fault::point!("handler.after", no error);
    let outcome = classify(core, subscription, leased, &scope, ended);
    drop(running);
    report(measures, &span, outcome.as_ref(), started);
    outcome
}

/// One of the process's places to run in. `None`: what waits goes back.
async fn place<S>(core: &Core<S>) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = core.stop.cancelled() => None,
        place = Arc::clone(&core.permits).acquire_owned() => place.ok(),
        () = core.until_alone(true) => None,
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
    if leased.envelope.version > subscription.version {
        return Ended::NewerVersion(leased.envelope.version);
    }
    let context = Context {
        state: &core.state,
        meta,
        ledger,
        shutdown: &core.stop,
    };
    let handler = match subscription.handler.start(&leased.envelope, &context) {
        Ok(handler) => handler,
        Err(undecodable) => return Ended::Undecodable(undecodable),
    };
    let scope = trace::Context {
        traceparent: Some(meta.traceparent.clone()),
        cause: Some(meta.event_id),
    };
    let handler = AssertUnwindSafe(trace::scope(scope, handler)).catch_unwind();
    tokio::select! {
        biased;
        ended = handler => match ended {
            Ok(result) => Ended::Returned(result),
            Err(panic) => Ended::Panicked(panic_text(&*panic)),
        },
        () = core.abort.cancelled() => Ended::Interrupted,
        () = lost(tracked, ledger) => Ended::LostLease,
        () = tokio::time::sleep(subscription.policy.timeout) => Ended::TimedOut,
    }
}

/// Resolves when another worker has the delivery. The renewal also loses what
/// the handler's own transaction has just finished: that goes on to its end.
async fn lost(tracked: &Tracked, ledger: &LedgerScope) {
    tracked.lost().await;
    if ledger.finishing() {
        std::future::pending::<()>().await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("with no message"))
}

/// What the policy makes of it. `None`: the delivery is no longer ours.
fn classify<S>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    leased: &Leased,
    ledger: &LedgerScope,
    ended: Ended,
) -> Option<Outcome> {
    if ledger.committed() {
        // The handler's own transaction finished the delivery; whatever came
        // after can no longer change that.
        return Some(Outcome::Done { committed: true });
    }
    let now = core.broker.db().clock().now();
    let failed = |error: String, after| match subscription
        .policy
        .retry
        .wait_after(leased.attempts + 1, core.broker.db().clock())
    {
        Some(wait) => Outcome::Retry {
            due_us: later(now, after_or(after, wait)).as_microsecond(),
            error,
        },
        None => Outcome::Dead {
            reason: "error",
            error,
            counted: true,
        },
    };
    Some(match ended {
        Ended::Returned(Ok(())) if ledger.left_open() => failed(
            "returned Ok with an open transaction: commit or roll back what `Ledger` began"
                .to_owned(),
            None,
        ),
        Ended::Returned(Ok(())) => Outcome::Done { committed: false },
        Ended::Returned(Err(error)) => return of_error(&error, now, failed),
        Ended::Panicked(text) => failed(text, None),
        Ended::TimedOut => failed(
            format!("timed out after {:?}", subscription.policy.timeout),
            None,
        ),
        Ended::Undecodable(Undecodable(error)) => Outcome::Parked {
            reason: "undecodable",
            error,
        },
        Ended::NewerVersion(version) => Outcome::Parked {
            reason: "version",
            error: format!(
                "version {version} is newer than version {} of this worker",
                subscription.version
            ),
        },
        Ended::Interrupted => release(core),
        Ended::LostLease => return None,
    })
}

fn after_or(after: Option<std::time::Duration>, wait: std::time::Duration) -> std::time::Duration {
    after.unwrap_or(wait)
}

fn of_error(
    error: &HandlerError,
    now: jiff::Timestamp,
    failed: impl FnOnce(String, Option<std::time::Duration>) -> Outcome,
) -> Option<Outcome> {
    match error.verdict {
        Verdict::Retry(after) => Some(failed(error.text(), after)),
        Verdict::Permanent => Some(Outcome::Dead {
            reason: "permanent",
            error: error.text(),
            counted: true,
        }),
        Verdict::Snooze(delay) => Some(Outcome::Snooze {
            due_us: later(now, delay).as_microsecond(),
        }),
        Verdict::LostLease => None,
    }
}

/// Due again at once, no attempt counted.
fn release<S>(core: &Core<S>) -> Outcome {
    Outcome::Snooze {
        due_us: core.broker.db().clock().now_us(),
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
    // No longer ours: whoever has it now has it in the ledger. What may be left
    // with us is the entry that carried it; that ends, and nothing else changes.
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

fn report(measures: &Measures, span: &tracing::Span, outcome: Option<&Outcome>, started: Instant) {
    let name = measures.attempt(outcome, started.elapsed());
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
