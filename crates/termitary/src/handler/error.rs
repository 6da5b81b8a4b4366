//! The result of a handler: done, retry, permanent error, snooze.

use std::time::Duration;

use crate::clock::{days, secs};
use crate::excerpt::Excerpt;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The return type of a handler. Any error converted with `?` is retried by the subscription's
/// policy.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a handler did not finish.
///
/// Not itself an `Error`, so that every error converts into it with `?`.
#[derive(Debug)]
pub struct HandlerError {
    pub(crate) verdict: Verdict,
    pub(crate) source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Counted; tried again by the policy, or after this delay.
    Retry(Option<Duration>),
    /// A dead letter now.
    Permanent,
    /// Due again after the delay; no attempt counted.
    Snooze(Duration),
    /// The delivery is another worker's by now; nothing to settle.
    LostLease,
}

impl HandlerError {
    /// Due again after `delay`, and not within one second unless the worker is
    /// stopping. Waiting is not failing: no attempt is counted.
    pub fn snooze(delay: Duration) -> Self {
        Self {
            verdict: Verdict::Snooze(delay),
            source: None,
        }
    }

    /// Never going to work: a dead letter now, with `reason`.
    pub fn permanent(reason: impl Into<BoxError>) -> Self {
        Self {
            verdict: Verdict::Permanent,
            source: Some(reason.into()),
        }
    }

    /// Counted as an error, but tried again after `delay` (a `Retry-After`),
    /// held within one second and 24 hours.
    pub fn retry_after(delay: Duration, reason: impl Into<BoxError>) -> Self {
        let delay = delay.clamp(secs(1), days(1));
        Self {
            verdict: Verdict::Retry(Some(delay)),
            source: Some(reason.into()),
        }
    }

    pub(crate) fn lost_lease(source: crate::Error) -> Self {
        Self {
            verdict: Verdict::LostLease,
            source: Some(source.into()),
        }
    }

    /// The error and its causes on one line, cut to a bound. Calls user code.
    pub(crate) fn text(&self) -> String {
        match &self.source {
            Some(source) => Excerpt::of_chain(&**source),
            None => String::new(),
        }
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self {
            verdict: Verdict::Retry(None),
            source: Some(error.into()),
        }
    }
}

/// Marks an error as final: `address.parse().permanent()?`.
pub trait PermanentExt<T> {
    /// An error becomes a dead letter at once instead of being retried.
    fn permanent(self) -> Result<T, HandlerError>;
}

impl<T, E: Into<BoxError>> PermanentExt<T> for Result<T, E> {
    fn permanent(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::permanent)
    }
}
