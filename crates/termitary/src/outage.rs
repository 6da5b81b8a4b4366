//! Faults that come in great numbers and are logged in small ones.
//!
//! An [`Outage`] is one thing that goes on failing: it is tried again less and less
//! often, and logged at the beginning and once a minute. A [`Tally`] counts things
//! that go wrong one by one: the first is logged, then once a minute how many there
//! were.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::{forward, minutes};
use crate::error::Error;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);
const SAY_EVERY: Duration = minutes(1);

/// One thing that may fail, and how long it has.
#[derive(Debug)]
pub(crate) struct Outage {
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
    pub(crate) fn of(what: &'static str) -> Self {
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
    pub(crate) fn failed(&self, error: &Error) -> Duration {
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
    pub(crate) fn over(&self) {
        let mut state = self.state();
        if state.wait.take().is_some() {
            // What comes and goes is still said once a minute only.
            tracing::info!("{} works again", self.what);
        }
    }
}

/// Things that go wrong one by one, perhaps very many of them.
#[derive(Debug)]
pub(crate) struct Tally {
    what: &'static str,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    said: Option<Instant>,
    /// How many came since then, and why the first of them.
    unsaid: u64,
    why: String,
}

impl Tally {
    /// Of what the log calls by this name.
    pub(crate) fn of(what: &'static str) -> Self {
        Self {
            what,
            counted: Mutex::default(),
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // A count that is off by a few after a panic is still a count.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `number` more; logs where it is time to.
    pub(crate) fn add(&self, number: u64, why: &dyn std::fmt::Display) {
        self.say(self.counted().add(number, why));
    }

    /// Logs what was counted since the last line, where it is time to. Call it now
    /// and then: nothing more may come.
    pub(crate) fn tick(&self) {
        self.say(self.counted().due());
    }

    /// Logs what was counted since the last line: nobody counts any more.
    pub(crate) fn end(&self) {
        self.say(self.counted().take());
    }

    fn say(&self, line: Option<(u64, String)>) {
        if let Some((number, why)) = line {
            tracing::warn!(number, why = %why, "{}", self.what);
        }
    }
}

impl Counted {
    fn add(&mut self, number: u64, why: &dyn std::fmt::Display) -> Option<(u64, String)> {
        if number > 0 && self.unsaid == 0 {
            self.why = why.to_string();
        }
        self.unsaid += number;
        self.due()
    }

    fn due(&mut self) -> Option<(u64, String)> {
        let due = self.said.is_none_or(|said| forward() - said > SAY_EVERY);
        due.then(|| self.take()).flatten()
    }

    /// How many were not logged, and why the first of them.
    fn take(&mut self) -> Option<(u64, String)> {
        if self.unsaid == 0 {
            return None;
        }
        self.said = Some(forward());
        let number = std::mem::take(&mut self.unsaid);
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
