//! Measures the duration of a subscription's handlers: work is leased ahead only if they are known
//! to be short. Otherwise a delivery that one worker leased and cannot start would wait beside idle
//! workers.

use std::time::Duration;

/// Handlers that take no longer, in the median, are short.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// So many of the last attempts are looked at.
const WINDOW: u32 = 31;
/// So few say nothing yet.
const FEW: u32 = 5;

/// The last attempts of one subscription, as one bit each: 1 where it took longer
/// than [`SHORT`], the newest lowest. The bit above the oldest is always set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace(u32);

impl Default for Pace {
    fn default() -> Self {
        Self(1)
    }
}

impl Pace {
    /// One more attempt took this long.
    pub(super) fn add(&mut self, took: Duration) {
        let long = u32::from(took > SHORT);
        let full = self.0 >> WINDOW;
        // The oldest leaves a full window; the bit above it stays.
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

    fn pace(attempts: impl IntoIterator<Item = bool>) -> Pace {
        let mut pace = Pace::default();
        for long in attempts {
            pace.add(if long { SHORT * 2 } else { SHORT });
        }
        pace
    }

    fn many(long: bool, times: u32) -> impl Iterator<Item = bool> {
        std::iter::repeat_n(long, times as usize)
    }

    #[test]
    fn nothing_is_known_of_the_first_attempts() {
        assert!(!pace([]).is_short());
        assert!(!pace(many(false, FEW - 1)).is_short());
        assert!(pace(many(false, FEW)).is_short());
        assert!(!pace(many(true, FEW)).is_short());
    }

    #[test]
    fn the_median_of_the_last_attempts_decides() {
        let (half, more) = (WINDOW / 2, WINDOW / 2 + 1);
        assert!(pace(many(false, 1_000).chain(many(true, half))).is_short());
        assert!(!pace(many(false, 1_000).chain(many(true, more))).is_short());
        assert!(!pace(many(true, 1_000).chain(many(false, half))).is_short());
        assert!(pace(many(true, 1_000).chain(many(false, more))).is_short());
    }
}
