//! Classifies how a handler ended: the outcome of its delivery.

use std::time::Duration;

use super::Core;
use crate::clock::later;
use crate::delivery::{Leased, Outcome};
use crate::guard::{self, Panicked};
use crate::handler::{HandlerError, HandlerResult, LedgerScope, Verdict};
use crate::subscription::{Subscription, Unfit};

const SHORTEST_SNOOZE: Duration = Duration::from_secs(1);

/// The end of one run of the handler, before the policy applies.
pub(super) enum HandlerEnd {
    Returned(HandlerResult),
    /// A panic, the timeout, or a transaction that did nothing for too long.
    Failed(String),
    /// The code cannot handle the event.
    Unfit(Unfit),
    /// The worker stops.
    Interrupted,
    /// Another worker has the delivery.
    LostLease,
}

impl HandlerEnd {
    /// The handler panicked when it was cancelled: an error, whatever the reason of the
    /// cancellation, unless another worker has the delivery.
    pub(super) fn dropped(self, panicked: &Panicked) -> Self {
        let why = match self {
            Self::Failed(why) => why,
            Self::LostLease => {
                tracing::warn!(error = %panicked, "a handler that had lost its lease panicked when it was dropped");
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

/// Applies the policy. Returns `None` if the delivery is no longer this worker's.
pub(super) fn classify<S>(
    core: &Core<S>,
    subscription: &Subscription<S>,
    leased: &Leased,
    ledger: &LedgerScope,
    ended: HandlerEnd,
) -> Option<Outcome> {
    if ledger.committed() {
        // The handler's own transaction finished the delivery. Nothing after it changes
        // that.
        if let Err(panicked) = guard::discard(ended) {
            tracing::warn!(error = %panicked, "a handler finished its delivery and then returned an error that panicked when it was dropped");
        }
        return Some(Outcome::Done { committed: true });
    }
    let failed = |error, after| failed(core, subscription, leased, error, after);
    Some(match ended {
        HandlerEnd::Returned(Ok(())) if ledger.left_open() => failed(
            "returned Ok with an open transaction: commit or roll back what `Ledger` began"
                .to_owned(),
            None,
        ),
        HandlerEnd::Returned(Ok(())) => Outcome::Done { committed: false },
        HandlerEnd::Returned(Err(error)) => return of_error(core, error, failed),
        HandlerEnd::Failed(text) => failed(text, None),
        HandlerEnd::Unfit(Unfit { reason, error }) => Outcome::Parked { reason, error },
        HandlerEnd::Interrupted => release(core),
        HandlerEnd::LostLease => return None,
    })
}

/// The outcome of a counted error: a retry after `after` or the policy's wait, or a dead
/// letter if this was the last attempt.
pub(super) fn failed<S>(
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

/// At least [`SHORTEST_SNOOZE`], as no attempt is counted and nothing else slows down a
/// handler that asks for no delay. A worker that stops does not run it again, and another
/// one may run it at once.
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

/// The text of an error, whose `Display` and drop are user code.
fn text_of(error: HandlerError) -> String {
    let text = guard::call(|| error.text());
    let text = text.unwrap_or_else(|panicked| format!("an error whose text {panicked}"));
    match guard::discard(error) {
        Ok(()) => text,
        Err(panicked) => and_dropped(&text, &panicked),
    }
}

/// Makes the delivery due again at once; no attempt is counted.
pub(super) fn release<S>(core: &Core<S>) -> Outcome {
    Outcome::Snooze {
        due_us: core.broker.db().clock().now_us(),
    }
}
