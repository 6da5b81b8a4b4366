//! One attempt, from leased to settled:
//! wait for a place → decode → extract → run → classify → settle → report.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument;

use super::Core;
use super::measures::Measures;
use super::pace::SHORT;
use super::queue::Waiting;
use super::renewal::Tracked;
use super::settler::Held;
use crate::broker::{Leased, Outcome, Settlement};
use crate::clock::later;
use crate::fault;
use crate::guard::{self, Panicked};
use crate::handler::{
    Context, HandlerError, HandlerResult, LedgerScope, Meta, Undecodable, Verdict,
};
use crate::subscription::Subscription;
use crate::trace;

const SHORTEST_SNOOZE: Duration = Duration::from_secs(1);

/// How one run of the handler ended, before the policy is asked.
enum Ended {
    Returned(HandlerResult),
    /// It panicked, or took too long.
    Failed(String),
    Undecodable(Undecodable),
    NewerVersion(u32),
    /// The worker stops, or the lease is lost: nothing to say about the event.
    Interrupted,
    LostLease,
}

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

/// What became of a delivery's turn to run.
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
    let scope = Arc::new(LedgerScope::new(
        core.broker.db().clone(),
        leased.claim.clone(),
    ));
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

/// One of the process's places to run in; where there is none soon, why what
/// waits goes back.
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
    let scope = trace::Context {
        traceparent: Some(meta.traceparent.clone()),
        cause: Some(meta.event_id),
    };
    let timeout = subscription.policy.timeout;
    let mut handler = guard::future(handler);
    let ended = tokio::select! {
        biased;
        ended = trace::scope(scope, &mut handler) => match ended {
            Ok(result) => Ended::Returned(result),
            Err(panicked) => Ended::Failed(panicked.to_string()),
        },
        () = core.abort.cancelled() => Ended::Interrupted,
        () = lost(tracked, ledger) => Ended::LostLease,
        () = tokio::time::sleep(timeout) => Ended::Failed(format!("timed out after {timeout:?}")),
    };
    // A handler that is ready is gone already; any other is dropped now.
    match handler.cancel() {
        Ok(()) => ended,
        Err(panicked) => ended.dropped(&panicked),
    }
}

impl Ended {
    /// The handler panicked when it was cancelled: an error, whatever it was
    /// cancelled for, but for a delivery that is another worker's.
    fn dropped(self, panicked: &Panicked) -> Self {
        let why = match self {
            Self::Failed(why) => why,
            Self::LostLease => {
                tracing::warn!(error = %panicked, "a handler panicked when it was dropped, its lease lost");
                return self;
            }
            _ => "interrupted".to_owned(),
        };
        Self::Failed(and_dropped(&why, panicked))
    }
}

fn and_dropped(why: &str, panicked: &Panicked) -> String {
    format!("{why}; when it was dropped it {panicked}")
}

/// Resolves when another worker has the delivery. The renewal also loses what
/// the handler's own transaction has just finished: that goes on to its end.
async fn lost(tracked: &Tracked, ledger: &LedgerScope) {
    tracked.lost().await;
    if ledger.finishing() {
        std::future::pending::<()>().await;
    }
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
        if let Err(panicked) = guard::discard(ended) {
            tracing::warn!(error = %panicked, "the error of a handler that had finished panicked when it was dropped");
        }
        return Some(Outcome::Done { committed: true });
    }
    let failed = |error, after| failed(core, subscription, leased, error, after);
    Some(match ended {
        Ended::Returned(Ok(())) if ledger.left_open() => failed(
            "returned Ok with an open transaction: commit or roll back what `Ledger` began"
                .to_owned(),
            None,
        ),
        Ended::Returned(Ok(())) => Outcome::Done { committed: false },
        Ended::Returned(Err(error)) => return of_error(core, error, failed),
        Ended::Failed(text) => failed(text, None),
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

/// An error was counted: another attempt, after `after` or the policy's wait,
/// or the last.
fn failed<S>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    leased: &Leased,
    error: String,
    after: Option<Duration>,
) -> Outcome {
    let clock = core.broker.db().clock();
    let retry = &subscription.policy.retry;
    match retry.wait_after(leased.attempts.saturating_add(1), clock) {
        Some(wait) => Outcome::Retry {
            due_us: later(clock.now(), after.unwrap_or(wait)).as_microsecond(),
            error,
        },
        None => Outcome::Dead {
            reason: "error",
            error,
            counted: true,
        },
    }
}

fn of_error<S>(
    core: &Core<S>,
    error: HandlerError,
    failed: impl FnOnce(String, Option<Duration>) -> Outcome,
) -> Option<Outcome> {
    let verdict = error.verdict;
    let text = text_of(error);
    match verdict {
        Verdict::Retry(after) => Some(failed(text, after)),
        Verdict::Permanent => Some(Outcome::Dead {
            reason: "permanent",
            error: text,
            counted: true,
        }),
        Verdict::Snooze(delay) => Some(snooze(core, delay)),
        Verdict::LostLease => None,
    }
}

/// No attempt is counted, so nothing else slows down a handler that asks for no
/// delay. A worker that stops runs it no more: another one may at once.
fn snooze<S>(core: &Core<S>, delay: Duration) -> Outcome {
    let least = if core.stop.is_cancelled() {
        Duration::ZERO
    } else {
        SHORTEST_SNOOZE
    };
    let now = core.broker.db().clock().now();
    Outcome::Snooze {
        due_us: later(now, delay.max(least)).as_microsecond(),
    }
}

/// The error's text and drop are user code.
fn text_of(error: HandlerError) -> String {
    let text = guard::call(|| error.text());
    let text = text.unwrap_or_else(|panicked| format!("an error whose text {panicked}"));
    match guard::discard(error) {
        Ok(()) => text,
        Err(panicked) => and_dropped(&text, &panicked),
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
