//! Something that fails again and again: tried with growing waits, logged at once
//! and then once a minute.

use std::time::{Duration, Instant};

use crate::clock::{minutes, secs};

const FIRST_WAIT: Duration = secs(1);
const LAST_WAIT: Duration = minutes(1);
const LOG_EVERY: Duration = minutes(1);

#[derive(Default)]
pub(super) struct Failing(Option<Since>);

struct Since {
    wait: Duration,
    again: Instant,
    logged: Instant,
}

impl Failing {
    /// Notes a failure. Returns whether to log it.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        let Some(since) = &mut self.0 else {
            self.0 = Some(Since {
                wait: FIRST_WAIT,
                again: now + FIRST_WAIT,
                logged: now,
            });
            return true;
        };
        since.wait = (since.wait * 2).min(LAST_WAIT);
        since.again = now + since.wait;
        let log = now.saturating_duration_since(since.logged) >= LOG_EVERY;
        if log {
            since.logged = now;
        }
        log
    }

    /// Notes that it works. Returns whether it had failed.
    pub(super) fn over(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// When to try again, where it failed.
    pub(super) fn again(&self) -> Option<Instant> {
        self.0.as_ref().map(|since| since.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_with_growing_waits_and_logged_once_a_minute() {
        let (start, mut failing) = (Instant::now(), Failing::default());
        let (mut now, mut waits, mut logged) = (start, Vec::new(), Vec::new());
        for _ in 0..10 {
            if failing.note(now) {
                logged.push((now - start).as_secs());
            }
            let again = failing.again().unwrap_or(now);
            waits.push((again - now).as_secs());
            now = again;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(logged, [0, 63, 123, 183, 243]);
        assert!(failing.over() && !failing.over());
    }
}
