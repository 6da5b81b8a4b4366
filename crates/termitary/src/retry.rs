//! The retry policy: how often a failed delivery runs again, and after which wait.

use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, days, hours, secs};

/// A subscription's retry policy: exponential backoff with jitter.
///
/// The wait after the n-th error is drawn uniformly from `[d/2, d]` with
/// `d = min(cap, base · 2ⁿ⁻¹)`. Half of the wait is fixed, so that nothing is retried at
/// once, as with "full" jitter; the other half spreads deliveries that failed together.
/// (Brooker, "Exponential Backoff And Jitter", calls this equal jitter.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    attempts: u32,
    base: Duration,
    cap: Duration,
}

/// The shortest wait that [`Registry::check`](crate::Registry::check) accepts: with less,
/// all attempts are used up before anything can recover.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest wait, whatever the cap.
const LONGEST: Duration = days(366);

impl Default for Retry {
    /// 25 attempts with waits from 2 seconds up to 12 hours: about four days, so that an
    /// outage of a weekend makes no dead letters.
    fn default() -> Self {
        Self::exponential(secs(2), hours(12))
    }
}

impl Retry {
    /// Waits that start at `base` and double up to `cap`, for 25 attempts. Both must be at
    /// least 10 ms, or [`Registry::check`](crate::Registry::check) fails. No wait is longer
    /// than 366 days.
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self {
            attempts: 25,
            base,
            cap,
        }
    }

    /// One attempt: the first error is final.
    pub const fn never() -> Self {
        Self {
            attempts: 1,
            base: secs(1),
            cap: secs(1),
        }
    }

    /// Sets the most attempts (default: 25, at least 1).
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// The most attempts.
    pub const fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// The longest first wait.
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The longest wait.
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The invalid values, each with the way out.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let values = [("base", self.base), ("cap", self.cap)];
        let short = values.iter().filter(|(_, wait)| *wait < SHORTEST);
        // With one attempt there is no wait.
        let short = short.filter(|_| self.attempts > 1);
        short
            .map(|(name, wait)| {
                format!("retry {name} {wait:?}: use at least {SHORTEST:?}, or `Retry::never()`")
            })
            .collect()
    }

    /// The wait after the `errors`-th error, or `None` after the last attempt.
    pub(crate) fn wait_after(&self, errors: u32, clock: &Clock) -> Option<Duration> {
        if errors >= self.attempts {
            return None;
        }
        let doublings = errors.saturating_sub(1).min(62);
        let full = self.base.as_secs_f64() * 2f64.powi(doublings as i32);
        let d = full.min(self.cap.min(LONGEST).as_secs_f64());
        Some(Duration::from_secs_f64(d / 2.0 + d / 2.0 * clock.random()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_lasts_about_four_days_and_never_retries_at_once() {
        let (retry, clock) = (Retry::default(), Clock::system());
        let waits: Vec<_> = (1..).map_while(|n| retry.wait_after(n, &clock)).collect();
        assert_eq!(waits.len(), 24);
        assert!(waits[0] >= secs(1) && waits[0] <= secs(2));
        let total: Duration = waits.iter().sum();
        assert!(total > hours(2 * 24) && total < hours(6 * 24), "{total:?}");
    }

    #[test]
    fn no_wait_overflows_and_a_wait_of_nothing_is_a_mistake() {
        let clock = Clock::system();
        let endless = Retry::exponential(Duration::MAX, Duration::MAX).attempts(u32::MAX);
        for errors in [1, 2, 64, u32::MAX - 1] {
            let wait = endless.wait_after(errors, &clock);
            assert!(wait.is_some_and(|wait| wait >= LONGEST / 2 && wait <= LONGEST));
        }
        assert!(endless.mistakes().is_empty());
        let none = Retry::exponential(Duration::ZERO, Duration::ZERO);
        assert_eq!(
            none.mistakes(),
            ["base", "cap"]
                .map(|name| format!("retry {name} 0ns: use at least 10ms, or `Retry::never()`"))
        );
        assert!(none.attempts(1).mistakes().is_empty());
    }

    #[test]
    fn one_attempt_means_no_retry() {
        assert_eq!(Retry::never().wait_after(1, &Clock::system()), None);
        assert_eq!(Retry::default().attempts(0).max_attempts(), 1);
    }
}
