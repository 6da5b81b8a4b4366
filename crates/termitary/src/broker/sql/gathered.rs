//! Publishes on PostgreSQL: those that wait at the same moment are recorded by one
//! statement, and while its commit goes to the disk the next ones gather.

use std::mem;
use std::sync::Arc;

use crate::db::Db;
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::fault;
use crate::ledger;
use crate::together::{Batch, Together, Turn};

/// Two statements at a time keep the server busy; more only share its processors.
const WRITERS: usize = 2;
/// The most callers that share a commit.
const MOST: usize = 100;

type Asked = Vec<Draft>;
type Receipts = Vec<Published>;

/// Gathers publishes; cheap to clone.
#[derive(Clone)]
pub(super) struct Gathered(Arc<Together<Asked, Receipts>>);

impl Gathered {
    pub(super) fn new() -> Self {
        Self(Together::new(WRITERS))
    }

    /// Records the drafts together with everything else that is published now, even if
    /// the caller stops waiting.
    pub(super) async fn publish(&self, db: &Db, drafts: Asked) -> Result<Receipts, Error> {
        let (receipts, turn) = self.0.ask(drafts);
        if let Some(turn) = turn {
            tokio::spawn(serve(db.clone(), turn));
        }
        receipts
            .await
            .map_err(|_| Error::internal("the runtime stopped before the events were recorded"))?
    }
}

async fn serve(db: Db, mut turn: Turn<Asked, Receipts>) {
    while let Some(mut batch) = turn.next(MOST) {
        let asked = mem::take(&mut batch.requests);
        let sizes: Vec<_> = asked.iter().map(Vec::len).collect();
        let drafts: Asked = asked.into_iter().flatten().collect();
        fault::point!("bus.gathered", no error);
        let recorded = ledger::verbs::publish(&db, &drafts).await;
        fault::point!("bus.recorded", no error);
        match recorded {
            Ok(receipts) => share(batch, &sizes, receipts),
            // One caller's event may be what the database refused: nothing is recorded.
            Err(error) if sizes.len() > 1 && error.is_refused() => {
                each(&db, batch, &sizes, &drafts).await;
            }
            Err(error) => batch.fail(&error),
        }
        db.announce();
    }
}

/// Gives each caller the receipts of so many drafts.
fn share(batch: Batch<Asked, Receipts>, sizes: &[usize], receipts: Receipts) {
    let mut receipts = receipts.into_iter();
    let shares: Vec<_> = sizes
        .iter()
        .map(|&size| Ok(receipts.by_ref().take(size).collect()))
        .collect();
    batch.answer(shares);
}

/// Records the drafts of each caller alone.
async fn each(db: &Db, batch: Batch<Asked, Receipts>, sizes: &[usize], mut drafts: &[Draft]) {
    let mut results = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let (own, rest) = drafts.split_at(size);
        results.push(ledger::verbs::publish(db, own).await);
        drafts = rest;
    }
    batch.answer(results);
}
