//! Seeing for oneself how long something stands unchanged.
//!
//! No clock of anybody else is asked, and not our own where it ran while we did
//! not: a machine that was suspended, or a process that was stopped, finds
//! everybody's leases old when it wakes, also those of workers that slept with it
//! and are about to renew.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The watched values, and the time for which each has not changed.
#[derive(Debug)]
pub(super) struct Watch<K> {
    /// The most that counts between two looks.
    most: Duration,
    looked: Option<Instant>,
    stood: HashMap<K, Duration>,
}

impl<K: Eq + Hash> Watch<K> {
    /// Of leases of this length, looked at every sixth of it. A look that comes
    /// late counts as two.
    pub(super) fn over(lease: Duration) -> Self {
        Self {
            most: lease / 3,
            looked: None,
            stood: HashMap::new(),
        }
    }

    /// Time since the last look, by a monotonic clock.
    pub(super) fn since_last(&self, now: Instant) -> Duration {
        self.looked
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// One look: forgets all but these, and calls `each` with how long it has stood.
    pub(super) fn look(
        &mut self,
        now: Instant,
        found: impl Iterator<Item = K>,
        mut each: impl FnMut(&K, Duration),
    ) {
        let passed = self.since_last(now).min(self.most);
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.stood);
        self.stood = found
            .map(|key| {
                let stood = before.remove(&key).map_or(Duration::ZERO, |it| it + passed);
                each(&key, stood);
                (key, stood)
            })
            .collect();
    }

    /// Nothing that was seen so far counts any more.
    pub(super) fn forget(&mut self) {
        self.stood.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{hours, secs};

    const LEASE: Duration = secs(30);

    /// The time for which one value has not changed, at each of these seconds.
    fn stood_at(seconds: &[u64]) -> Vec<u64> {
        let (start, mut watch) = (Instant::now(), Watch::over(LEASE));
        let mut seen = Vec::new();
        for at in seconds {
            watch.look(start + secs(*at), std::iter::once("it"), |_, stood| {
                seen.push(stood.as_secs());
            });
        }
        seen
    }

    #[test]
    fn time_counts_only_as_far_as_it_was_watched() {
        assert_eq!(stood_at(&[0, 5, 10, 15]), [0, 5, 10, 15]);
        assert_eq!(stood_at(&[0, 9, 18]), [0, 9, 18], "looks may come late");
        let hour = hours(1).as_secs();
        assert_eq!(stood_at(&[0, hour, hour + 5]), [0, 10, 15], "it slept");
    }

    #[test]
    fn who_is_gone_at_one_look_is_new_at_the_next() {
        let (start, mut watch) = (Instant::now(), Watch::over(LEASE));
        let mut look = |at, found: &[&'static str]| {
            let mut seen = Vec::new();
            let found = found.iter().copied();
            watch.look(start + secs(at), found, |key, stood| {
                seen.push((*key, stood.as_secs()));
            });
            seen
        };
        look(0, &["a", "b"]);
        assert_eq!(look(5, &["a"]), [("a", 5)]);
        assert_eq!(look(10, &["a", "b"]), [("a", 10), ("b", 0)]);
        assert_eq!(look(15, &["b", "a"]), [("b", 5), ("a", 15)]);
    }
}
