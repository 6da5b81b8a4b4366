//! Something that fails goes on failing for a while: it is tried again less
//! and less often, and said at the beginning and once a minute.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::{forward, minutes};
use crate::error::Error;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);
const SAY_EVERY: Duration = minutes(1);

/// One thing that may fail, and how long it has.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wait: Option<Duration>,
    said: Option<Instant>,
}

impl Outage {
    /// Of what the log calls by this name.
    pub(super) fn of(what: &'static str) -> Self {
        Self {
            what,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Two fields that nothing can leave half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says so where it is time to; answers how long to wait before the next try.
    pub(super) fn failed(&self, error: &Error) -> Duration {
        let mut state = self.state();
        if state.said.is_none_or(|said| forward() - said > SAY_EVERY) {
            state.said = Some(forward());
            tracing::warn!(error = ?error, "{} fails; trying again", self.what);
        }
        let wait = state.wait.unwrap_or(FIRST_WAIT);
        state.wait = Some((wait * 2).min(LAST_WAIT));
        wait
    }

    /// It works, or works again.
    pub(super) fn over(&self) {
        let mut state = self.state();
        if state.wait.take().is_some() {
            // What comes and goes is still said once a minute only.
            tracing::info!("{} works again", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_anew() {
        let outage = Outage::of("a test");
        let error = Error::internal("no");
        let waits: Vec<_> = (0..10).map(|_| outage.failed(&error)).collect();
        assert_eq!(waits[0], FIRST_WAIT);
        assert_eq!(waits[1], FIRST_WAIT * 2);
        assert_eq!(waits[9], LAST_WAIT);
        outage.over();
        assert_eq!(outage.failed(&error), FIRST_WAIT);
    }
}
