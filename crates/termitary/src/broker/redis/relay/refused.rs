//! A refusal of Redis for one subscription delays that subscription only.

use std::collections::HashMap;
use std::time::Instant;

use redis::RedisError;

use crate::clock::forward;
use crate::outage::Outage;

/// Subscriptions for which Redis takes nothing now: a key of another type, a
/// name that this user may not write. They wait; the others do not.
pub(crate) struct Refused {
    until: HashMap<i64, Instant>,
    outage: Outage,
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            until: HashMap::new(),
            outage: Outage::of("adding to a stream"),
        }
    }
}

impl Refused {
    pub(crate) fn note(&mut self, routes: impl Iterator<Item = i64>, error: RedisError) {
        let until = forward() + self.outage.failed(&error.into());
        self.until.extend(routes.map(|route| (route, until)));
    }

    pub(crate) fn passed(&mut self, routes: impl Iterator<Item = i64>) {
        if self.until.is_empty() {
            return;
        }
        for route in routes {
            self.until.remove(&route);
        }
        if self.until.is_empty() {
            self.outage.over();
        }
    }

    pub(crate) fn waits(&self, route: i64) -> bool {
        self.until
            .get(&route)
            .is_some_and(|until| forward() < *until)
    }
}
