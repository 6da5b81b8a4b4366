//! A rate limit: a burst, and then one per interval for each key. It is kept in memory, so
//! a restart resets it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// The most keys that are kept. Beyond them, unused keys are deleted first, and then all.
const KEYS: usize = 10_000;

/// The limit, and the time until which each key has used it up.
pub(crate) struct Rate<K> {
    burst: i64,
    every_us: i64,
    until_us: Mutex<HashMap<K, i64>>,
}

impl<K: Hash + Eq> Rate<K> {
    /// One per `every`, after a burst.
    pub(crate) fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst: i64::from(burst),
            every_us: every.as_micros() as i64,
            until_us: Mutex::default(),
        }
    }

    /// Counts one use, or returns the time to wait.
    pub(crate) fn count(&self, key: K, now: Timestamp) -> Result<(), Duration> {
        let now_us = now.as_microsecond();
        // No change can panic halfway.
        let mut all = self.until_us.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEYS {
            all.retain(|_, until_us| *until_us > now_us);
        }
        if all.len() >= KEYS {
            all.clear();
        }
        let until_us = all.entry(key).or_insert(now_us);
        let next_us = (*until_us).max(now_us) + self.every_us;
        let wait_us = next_us - now_us - self.burst * self.every_us;
        if wait_us > 0 {
            return Err(Duration::from_micros(wait_us as u64) + Duration::from_millis(999));
        }
        *until_us = next_us;
        Ok(())
    }
}
