//! Faults that come in large numbers and are logged in small ones.
//!
//! An [`Outage`] is one activity that may fail for a while: it retries with growing
//! delays, and logs the first failure and then once a minute. A [`Tally`] counts single
//! faults: it logs the first, then once a minute the number of new ones.

use std::time::{Duration, Instant};

use crate::clock::{forward, minutes};
use crate::error::Error;
use crate::lock::Mutex;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);
const LOG_EVERY: Duration = minutes(1);

/// An activity that may fail, and how long it has been failing.
#[derive(Debug)]
pub(crate) struct Outage {
    what: &'static str,
    waits: (Duration, Duration),
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wait: Option<Duration>,
    logged: Option<Instant>,
}

impl Outage {
    /// An activity under the name that the log uses. Its retries wait 100 ms at first, then
    /// twice as long each time, up to 5 s.
    pub(crate) const fn of(what: &'static str) -> Self {
        Self::with_waits(what, FIRST_WAIT, LAST_WAIT)
    }

    /// [`Outage::of`] with other waits.
    pub(crate) const fn with_waits(what: &'static str, first: Duration, last: Duration) -> Self {
        let state = State {
            wait: None,
            logged: None,
        };
        Self {
            what,
            waits: (first, last),
            state: Mutex::new(state),
        }
    }

    /// Logs the failure if it is time to. Returns the wait before the next try.
    pub(crate) fn failed(&self, error: &Error) -> Duration {
        let mut state = self.state.lock();
        if state.logged.is_none_or(|at| forward() - at > LOG_EVERY) {
            state.logged = Some(forward());
            tracing::warn!(error = ?error, "{} fails; trying again", self.what);
        }
        let (first, last) = self.waits;
        let wait = state.wait.unwrap_or(first);
        state.wait = Some((wait * 2).min(last));
        wait
    }

    /// Logs the first success after a failure. An activity that fails now and then is
    /// still logged at most once a minute.
    pub(crate) fn over(&self) {
        if self.state.lock().wait.take().is_some() {
            tracing::info!("{} works again", self.what);
        }
    }
}

/// Single faults, perhaps very many of them.
#[derive(Debug)]
pub(crate) struct Tally {
    what: &'static str,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    logged: Option<Instant>,
    /// The number of faults since then, and the reason of the first of them.
    new: u64,
    why: String,
}

impl Tally {
    /// Faults under the name that the log uses.
    pub(crate) fn of(what: &'static str) -> Self {
        Self {
            what,
            counted: Mutex::default(),
        }
    }

    /// Counts `number` more and logs if it is time to.
    pub(crate) fn add(&self, number: u64, why: &dyn std::fmt::Display) {
        self.log(self.counted.lock().add(number, why));
    }

    /// Logs new faults if it is time to. Called now and then, as no further fault may
    /// come.
    pub(crate) fn tick(&self) {
        self.log(self.counted.lock().due());
    }

    /// Logs new faults: nobody counts any more.
    pub(crate) fn end(&self) {
        self.log(self.counted.lock().take());
    }

    fn log(&self, line: Option<(u64, String)>) {
        if let Some((number, why)) = line {
            tracing::warn!(number, why = %why, "{}", self.what);
        }
    }
}

impl Counted {
    fn add(&mut self, number: u64, why: &dyn std::fmt::Display) -> Option<(u64, String)> {
        if number > 0 && self.new == 0 {
            self.why = why.to_string();
        }
        self.new += number;
        self.due()
    }

    fn due(&mut self) -> Option<(u64, String)> {
        let due = self.logged.is_none_or(|at| forward() - at > LOG_EVERY);
        due.then(|| self.take()).flatten()
    }

    fn take(&mut self) -> Option<(u64, String)> {
        if self.new == 0 {
            return None;
        }
        self.logged = Some(forward());
        let number = std::mem::take(&mut self.new);
        Some((number, std::mem::take(&mut self.why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ahead, secs};

    #[test]
    fn a_hundred_thousand_faults_are_a_line_at_once_and_one_a_minute() {
        let mut counted = Counted::default();
        let lines: Vec<_> = (0..100_000).filter_map(|n| counted.add(1, &n)).collect();
        assert_eq!(lines, [(1, "0".to_owned())]);
        assert_eq!(counted.due(), None, "not yet");
        ahead::advance(secs(61));
        assert_eq!(counted.due(), Some((99_999, "1".to_owned())));
        assert_eq!(counted.due(), None, "nothing more came");
        assert_eq!(counted.add(2, &"another"), None, "it was logged just now");
        assert_eq!(counted.take(), Some((2, "another".to_owned())));
        assert_eq!(counted.take(), None);
        ahead::advance(secs(61));
        assert_eq!(counted.add(0, &"nothing"), None);
    }

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
