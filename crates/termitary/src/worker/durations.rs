//! The recent durations of a subscription's attempts. A worker leases ahead only if its
//! handlers are known to be short; otherwise a delivery that it leased and cannot begin
//! would wait although other workers are idle.

use std::time::Duration;

/// Handlers are short if their median attempt takes no longer.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// The number of recent attempts that count.
const WINDOW: u32 = 31;
/// With fewer attempts, nothing is known yet.
const FEW: u32 = 5;

/// One bit for each recent attempt: 1 if it took longer than [`SHORT`], the newest lowest.
/// The bit above the oldest is always set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durations(u32);

impl Default for Durations {
    fn default() -> Self {
        Self(1)
    }
}

impl Durations {
    /// Adds an attempt.
    pub(super) fn add(&mut self, took: Duration) {
        let long = u32::from(took > SHORT);
        let full = self.0 >> WINDOW;
        // The oldest bit leaves a full window; the bit above it stays.
        let rest = self.0 & !(full << WINDOW) & !(full << (WINDOW - 1));
        self.0 = (rest << 1) | long | (full << WINDOW);
    }

    /// Returns whether the median attempt is known to be short.
    pub(super) fn is_short(self) -> bool {
        let attempts = self.0.ilog2();
        let long = self.0.count_ones() - 1;
        attempts >= FEW && 2 * long <= attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(attempts: impl IntoIterator<Item = bool>) -> Durations {
        let mut durations = Durations::default();
        for long in attempts {
            durations.add(if long { SHORT * 2 } else { SHORT });
        }
        durations
    }

    fn many(long: bool, times: u32) -> impl Iterator<Item = bool> {
        std::iter::repeat_n(long, times as usize)
    }

    #[test]
    fn nothing_is_known_of_the_first_attempts() {
        assert!(!durations([]).is_short());
        assert!(!durations(many(false, FEW - 1)).is_short());
        assert!(durations(many(false, FEW)).is_short());
        assert!(!durations(many(true, FEW)).is_short());
    }

    #[test]
    fn the_median_of_the_last_attempts_decides() {
        let (half, more) = (WINDOW / 2, WINDOW / 2 + 1);
        assert!(durations(many(false, 1_000).chain(many(true, half))).is_short());
        assert!(!durations(many(false, 1_000).chain(many(true, more))).is_short());
        assert!(!durations(many(true, 1_000).chain(many(false, half))).is_short());
        assert!(durations(many(true, 1_000).chain(many(false, more))).is_short());
    }
}
