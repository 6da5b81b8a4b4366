//! Leases on their way to the caller.

use rusqlite::Connection;

use crate::db::Db;
use crate::delivery::{Leased, Outcome, Settlement};
use crate::engine::Engine;
use crate::engine::sqlite::Request;
use crate::error::Error;
#[cfg(feature = "postgres")]
use crate::ledger;
use crate::ledger::batch;

/// Leases that the caller has not received yet. It may be dropped at any moment: then they are
/// released at once instead of expiring.
pub(super) struct Unseen {
    db: Db,
    leased: Vec<Leased>,
}

impl Unseen {
    pub(super) fn new(db: Db, leased: Vec<Leased>) -> Self {
        Self { db, leased }
    }

    pub(super) fn look(mut self) -> Vec<Leased> {
        std::mem::take(&mut self.leased)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let now_us = self.db.clock().now_us();
        let release = |leased: Leased| Settlement {
            claim: leased.claim,
            outcome: Outcome::Snooze { due_us: now_us },
        };
        let settlements = self.leased.drain(..).map(release).collect();
        match self.db.engine() {
            Engine::Sqlite(_) => self.db.request(Box::new(Release {
                settlements,
                now_us,
            })),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => {
                let db = self.db.clone();
                // Without a runtime they expire.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        let ended = ledger::verbs::settle(&db, settlements, now_us).await;
                        report(&ended.map(drop));
                    });
                }
            }
        }
    }
}

/// The leases to release.
struct Release {
    settlements: Vec<Settlement>,
    now_us: i64,
}

impl Request for Release {
    fn run(&mut self, conn: &Connection) -> Result<(), Error> {
        batch::settle(conn, &self.settlements, self.now_us).map(drop)
    }

    fn reply(self: Box<Self>, ended: &Result<(), Error>) {
        report(ended);
    }
}

fn report(ended: &Result<(), Error>) {
    if let Err(error) = ended {
        tracing::warn!(error = ?error, "leases that no worker received were not released; they will expire instead");
    }
}
