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
        fault::point!("bus.gathered", no error);
        let recorded = ledger::verbs::publish(&db, &asked.concat()).await;
        fault::point!("bus.recorded", no error);
        match recorded {
            Ok(receipts) => share(batch, &asked, receipts),
            // One caller's event may be what the database refused: nothing is recorded.
            Err(error) if asked.len() > 1 && error.is_refused() => each(&db, batch, asked).await,
            Err(error) => batch.fail(&error),
        }
        db.announce();
    }
}

fn share(batch: Batch<Asked, Receipts>, asked: &[Asked], receipts: Receipts) {
    let mut receipts = receipts.into_iter();
    let shares: Vec<_> = asked
        .iter()
        .map(|drafts| Ok(receipts.by_ref().take(drafts.len()).collect()))
        .collect();
    batch.answer(shares);
}

async fn each(db: &Db, batch: Batch<Asked, Receipts>, asked: Vec<Asked>) {
    let mut results = Vec::with_capacity(asked.len());
    for drafts in &asked {
        results.push(ledger::verbs::publish(db, drafts).await);
    }
    batch.answer(results);
}
