//! Deliveries leased straight from the ledger, by row state.
//!
//! Concurrent calls share transactions on the thread that writes (`publishes`), leases that
//! no lane received go back at once (`unseen`), and a waiting lane wakes up when
//! its subscription has something due (`wake`).

#[cfg(feature = "postgres")]
mod gathered;
mod publishes;
#[cfg(test)]
mod publishes_tests;
mod unseen;
#[cfg(test)]
mod unseen_tests;
mod wake;

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use super::Transport;
use super::expiry::Expiry;
use crate::clock::micros;
use crate::db::Db;
use crate::delivery::{Claim, Counts, Cursor, Leased, Route, Settlement, WorkerId};
use crate::draft::{Draft, Published};
use crate::engine::Engine;
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger::verbs::{self, Lease};
use crate::ledger::{self, Whose};

use publishes::Publishes;
use unseen::Unseen;
use wake::Wake;

pub(crate) struct Sql {
    db: Db,
    lease: Duration,
    publishes: Publishes,
    #[cfg(feature = "postgres")]
    gathered: gathered::Gathered,
    wake: Wake,
    expiry: Expiry,
}

impl Sql {
    pub(crate) fn new(db: Db, lease: Duration) -> Self {
        Self {
            publishes: Publishes::default(),
            #[cfg(feature = "postgres")]
            gathered: gathered::Gathered::new(),
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
        let asked = Lease {
            route: route.id,
            worker: worker.clone(),
            max,
            now_us,
            until_us,
        };
        let db = self.db.clone();
        let leased = verbs::lease_then(&self.db, asked, |leased| Unseen::new(db, leased));
        Ok(leased.await?.look())
    }
}

#[async_trait]
impl Transport for Sql {
    async fn declare(&self, _routes: &[Route]) -> Result<(), Error> {
        Ok(())
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
        match self.db.engine() {
            Engine::Sqlite(_) => self.publishes.publish(&self.db, drafts).await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => self.gathered.publish(&self.db, drafts).await,
        }
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
            // Listen before looking, so that a delivery that comes due in between is not missed.
            let wait = self.wake.listen(route.id);
            let leased = self.try_lease(route, worker, max).await?;
            if !leased.is_empty() {
                return Ok(leased);
            }
            if tokio::time::timeout_at(deadline, wait.work_may_be_due())
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
        let mut conn = self.db.renewer().await?;
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
        verbs::settle(&self.db, settlements.to_vec(), self.db.clock().now_us()).await
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
