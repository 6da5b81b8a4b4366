//! The metrics of one subscription's attempts. The handles are made once, as finding them
//! by their labels for every attempt costs more than counting.

use std::time::Duration;

use metrics::{Counter, Histogram};

use crate::delivery::Outcome;

pub(super) struct Measures {
    outcomes: [(&'static str, Counter); NAMES.len()],
    seconds: Histogram,
}

/// The outcomes, in the order of [`place`].
const NAMES: [&str; 6] = ["done", "retry", "snooze", "dead", "parked", "lost"];

fn place(outcome: Option<&Outcome>) -> usize {
    match outcome {
        Some(Outcome::Done { .. }) => 0,
        Some(Outcome::Retry { .. }) => 1,
        Some(Outcome::Snooze { .. }) => 2,
        Some(Outcome::Dead { .. }) => 3,
        Some(Outcome::Parked { .. }) => 4,
        None => 5,
    }
}

impl Measures {
    /// Uses the metrics recorder that is installed now.
    pub(super) fn of(subscription: &str) -> Self {
        let name = || subscription.to_owned();
        Self {
            outcomes: NAMES.map(|outcome| {
                let counter = metrics::counter!("termitary_attempts_total", "subscription" => name(), "outcome" => outcome);
                (outcome, counter)
            }),
            seconds: metrics::histogram!("termitary_attempt_seconds", "subscription" => name()),
        }
    }

    /// Counts one attempt. Returns the name of its outcome.
    pub(super) fn attempt(&self, outcome: Option<&Outcome>, took: Duration) -> &'static str {
        let (name, counter) = &self.outcomes[place(outcome)];
        counter.increment(1);
        self.seconds.record(took.as_secs_f64());
        name
    }
}
