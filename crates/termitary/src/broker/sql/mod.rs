//! Deliveries leased straight from the ledger, by row state.
//!
//! Concurrent calls share transactions (`commit`), and a waiting lane is rung
//! when its subscription has something due (`wake`): a worker never does one
//! statement per event, and an idle one does none.

mod commit;
#[cfg(test)]
mod commit_tests;
mod wake;

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use super::expiry::Expiry;
use super::{Claim, Counts, Cursor, Leased, Route, Settlement, Transport, WorkerId};
use crate::clock::micros;
use crate::db::Db;
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger::{self, Whose};
use crate::publish::{Draft, Published};

use commit::{GroupCommit, Op};
use wake::Wake;

pub(crate) struct Sql {
    db: Db,
    lease: Duration,
    commit: GroupCommit,
    wake: Wake,
    expiry: Expiry,
}

impl Sql {
    pub(crate) fn new(db: Db, lease: Duration) -> Self {
        Self {
            commit: GroupCommit::new(db.clone()),
            wake: Wake::new(db.clone()),
            expiry: Expiry::new(lease),
            db,
            lease,
        }
    }

    async fn try_lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
    ) -> Result<Vec<Leased>, Error> {
        let now_us = self.db.clock().now_us();
        let until_us = now_us.saturating_add(micros(self.lease));
        self.commit
            .lease(|reply| Op::Lease {
                route: route.id,
                worker: worker.clone(),
                max,
                now_us,
                until_us,
                reply,
            })
            .await
    }
}

#[async_trait]
impl Transport for Sql {
    fn mode(&self) -> &'static str {
        "sqlite"
    }

    async fn declare(&self, _routes: &[Route]) -> Result<(), Error> {
        Ok(())
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        self.commit
            .submit(|reply| Op::Publish { drafts, reply })
            .await
    }

    async fn lease(
        &self,
        route: &Route,
        worker: &WorkerId,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, Error> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            // Listen before looking: what comes due in between still rings.
            let bell = self.wake.listen(route.id);
            let leased = self.try_lease(route, worker, max).await?;
            if !leased.is_empty() {
                return Ok(leased);
            }
            if tokio::time::timeout_at(deadline, bell.rung())
                .await
                .is_err()
            {
                return Ok(Vec::new());
            }
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Result<Vec<bool>, Error> {
        let keys: Vec<_> = claims.iter().filter_map(Claim::row).collect();
        let until_us = self.db.clock().now_us().saturating_add(micros(self.lease));
        let mut conn = self.db.renewer().acquire().await?;
        let held: HashSet<_> = ledger::renew(&mut conn, &keys, until_us)
            .await?
            .into_iter()
            .collect();
        Ok(claims
            .iter()
            .map(|claim| claim.row().is_some_and(|row| held.contains(&row)))
            .collect())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, Error> {
        let settlements = settlements.to_vec();
        self.commit
            .submit(|reply| Op::Settle { settlements, reply })
            .await
    }

    async fn upkeep(&self, _worker: &WorkerId, _routes: &[Route]) -> Result<Duration, Error> {
        let taken = self.expiry.reclaim(&self.db, Whose::Everyone).await?;
        if taken > 0 {
            metrics::counter!("termitary_leases_expired_total").increment(taken);
            tracing::warn!(
                deliveries = taken,
                "took back the leases of a worker that is gone"
            );
        }
        Ok(self.expiry.every())
    }

    async fn counts(&self, routes: &[Route]) -> Result<Vec<Counts>, Error> {
        Ok(vec![Counts::default(); routes.len()])
    }

    async fn read(&self, _cursor: &mut Cursor, _routes: &[Route]) -> Result<Vec<Envelope>, Error> {
        Ok(Vec::new())
    }

    async fn leave(&self, _worker: &WorkerId, _routes: &[Route]) -> Result<(), Error> {
        Ok(())
    }
}
