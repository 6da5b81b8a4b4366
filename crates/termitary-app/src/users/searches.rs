//! How often each user may look for people: a burst, and then slowly. Kept in
//! memory: a restart forgives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::http::ApiError;

/// One search by name a second, after a burst of 60.
const NAMES: Rate = Rate {
    burst: 60,
    every_us: 1_000_000,
};
/// One address a minute, after a burst of 10: enough for people, useless to try
/// a list.
const ADDRESSES: Rate = Rate {
    burst: 10,
    every_us: 60_000_000,
};
/// The most users that are remembered; more, and those who waited longest are
/// forgotten.
const USERS: usize = 10_000;

struct Rate {
    burst: i64,
    every_us: i64,
}

/// Until when each user has used up their searches, by kind.
#[derive(Default)]
pub(crate) struct PeopleSearches(Mutex<HashMap<(Uuid, bool), i64>>);

impl PeopleSearches {
    /// Counts one search, or says how long to wait.
    pub(crate) fn count(
        &self,
        user: Uuid,
        by_address: bool,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let rate = if by_address { ADDRESSES } else { NAMES };
        let now_us = now.as_microsecond();
        // Every change is whole before anything can panic.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= USERS {
            all.retain(|_, until_us| *until_us > now_us);
        }
        if all.len() >= USERS {
            all.clear();
        }
        let until_us = all.entry((user, by_address)).or_insert(now_us);
        let next_us = (*until_us).max(now_us) + rate.every_us;
        let wait_us = next_us - now_us - rate.burst * rate.every_us;
        if wait_us > 0 {
            return Err(ApiError::TooMany {
                detail: "Too many searches for people: wait before the next one.",
                retry_after: Duration::from_micros(wait_us as u64) + Duration::from_millis(999),
            });
        }
        *until_us = next_us;
        Ok(())
    }
}
