//! When a lease is over, without trusting any one clock.
//!
//! The end of a lease is given by the clock of the worker that renewed it last, and that clock may
//! be wrong; so may ours. A lease that looks expired is therefore watched: a live worker renews it
//! every third of its time, and it changes. A lease is over if it did not change for half a lease
//! although its time has passed, or for a whole lease whatever its time. With correct clocks that
//! is the moment of its end.

use std::time::{Duration, Instant};

use super::watch::Watch;
use crate::clock::{forward, micros};
use crate::db::Db;
use crate::error::Error;
use crate::fault;
use crate::ledger::{self, Lease, Whose};
use crate::lock::Mutex;

/// Number of leases that one transaction takes back.
const PAGE: usize = 500;

/// Watches the leases of a ledger.
pub(super) struct Expiry {
    lease: Duration,
    seen: Mutex<Watch<Lease>>,
}

impl Expiry {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            seen: Mutex::new(Watch::over(lease)),
        }
    }

    /// Interval between looks: a dead worker's delivery is taken over one lease and one look after
    /// its last renewal.
    pub(super) fn every(&self) -> Duration {
        self.lease / 6
    }

    /// Takes back expired leases; returns their number.
    pub(super) async fn reclaim(&self, db: &Db, whose: Whose) -> Result<u64, Error> {
        let now_us = db.clock().now_us();
        let half_us = micros(self.lease / 2);
        let usual = (now_us + half_us)..=(now_us + 3 * half_us);
        let stale = ledger::stale(db, whose, &usual).await?;
        if !stale.is_empty() && !self.could_renew(db).await {
            self.seen.lock().forget();
            return Ok(0);
        }
        let over = {
            let mut seen = self.seen.lock();
            judge(&mut seen, stale, now_us, forward(), self.lease)
        };
        let mut taken = 0;
        for page in over.chunks(PAGE) {
            fault::point!("reclaim.before");
            let mut tx = db.begin_own().await?;
            taken += ledger::crash(&mut tx, page, db.clock().now_us()).await?;
            fault::point!("reclaim.before_commit");
            tx.commit_and_wake().await?;
            fault::point!("reclaim.after_commit");
        }
        Ok(taken)
    }

    /// Returns whether leases could be renewed now. While a transaction of any process blocks all
    /// writers, the leases of live workers do not change, like those of dead ones: all are watched
    /// anew afterwards.
    async fn could_renew(&self, db: &Db) -> bool {
        let prompt = (self.lease / 10).max(Duration::from_millis(500));
        let asked = Instant::now();
        let written = match db.begin_own().await {
            Ok(tx) => tx.rollback().await.is_ok(),
            Err(_) => false,
        };
        written && asked.elapsed() <= prompt
    }
}

/// Which of these stale-looking leases are over.
fn judge(
    seen: &mut Watch<Lease>,
    stale: Vec<Lease>,
    now_us: i64,
    now: Instant,
    lease: Duration,
) -> Vec<Lease> {
    let mut over = Vec::new();
    seen.look(now, stale.into_iter(), |found, stood| {
        let ended = found.until_us < now_us;
        if stood >= lease || (ended && stood >= lease / 2) {
            over.push(*found);
        }
    });
    over
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::clock::secs;

    const LEASE: Duration = secs(30);
    const SECOND: i64 = 1_000_000;

    /// A worker renews until second `dies`, by a clock that is off by `theirs` seconds; we look
    /// from second `first` on, by one off by `ours`. Returns the second at which we take over,
    /// within ten minutes.
    fn taken_after(first: u64, dies: u64, theirs: i64, ours: i64) -> Option<u64> {
        let (start, mut seen) = (Instant::now(), Watch::over(LEASE));
        for t in (first..600).step_by(5) {
            let renewed = t.min(dies) / 10 * 10;
            let until_us = (renewed as i64 + theirs + 30) * SECOND;
            let now_us = (t as i64 + ours) * SECOND;
            let usual = (now_us + 15 * SECOND)..=(now_us + 45 * SECOND);
            let found = Lease {
                seq: 1,
                route: 1,
                fence: 1,
                until_us,
            };
            let stale = (!usual.contains(&until_us)).then_some(found);
            let stale = stale.into_iter().collect();
            let over = judge(&mut seen, stale, now_us, start + secs(t), LEASE);
            if !over.is_empty() {
                return Some(t);
            }
        }
        None
    }

    #[test]
    fn a_dead_workers_lease_is_taken_one_lease_and_one_look_after_its_renewal() {
        for first in 0..5 {
            for dies in 0..60 {
                let renewed = dies / 10 * 10;
                let taken = taken_after(first, dies, 0, 0).unwrap();
                assert!(
                    (renewed + 30..=renewed + 36).contains(&taken),
                    "died at {dies}, taken at {taken}"
                );
            }
        }
    }

    #[test]
    fn no_clock_takes_a_living_workers_lease() {
        for theirs in [-86_400, -3_600, -20, -1, 0, 1, 20, 3_600, 86_400] {
            for ours in [-3_600, -20, 0, 20, 3_600] {
                let taken = taken_after(3, 10_000, theirs, ours);
                assert_eq!(taken, None, "theirs {theirs}, ours {ours}");
            }
        }
    }

    #[test]
    fn a_machine_that_slept_takes_no_lease_of_a_worker_that_slept_with_it() {
        // The lease had been late when it fell asleep, and was seen so.
        let until_us = 31 * SECOND;
        let lease = Lease {
            seq: 1,
            route: 1,
            fence: 1,
            until_us,
        };
        for asleep in [20, 60, 3_600, 86_400] {
            let (start, mut seen) = (Instant::now(), Watch::over(LEASE));
            let mut look = |t: u64| {
                let now_us = t as i64 * SECOND;
                judge(&mut seen, vec![lease], now_us, start + secs(t), LEASE)
            };
            assert_eq!(look(20), []);
            let woke = 20 + asleep;
            assert_eq!(look(woke), [], "slept for {asleep}, and takes it at once");
            assert_eq!(look(woke + 5), [lease], "it is not renewed after that");
        }
    }

    #[test]
    fn a_dead_workers_lease_ends_whatever_its_clock_said() {
        for theirs in [-86_400, -3_600, -20, 20, 3_600, 86_400] {
            let taken = taken_after(3, 57, theirs, 0).unwrap();
            assert!(taken <= 50 + 90, "theirs {theirs}, taken at {taken}");
        }
    }
}
