//! Effectively once: effects, new events and "done" in one transaction.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Context, FromDelivery, HandlerError, HandlerResult};
use crate::broker::Claim;
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;
use crate::planted;

/// Lets a handler finish its delivery inside a transaction of its own:
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use termitary::prelude::*;
/// # #[derive(Serialize, Deserialize, JsonSchema)]
/// # struct UserRegistered {}
/// # impl Event for UserRegistered { const NAME: &'static str = "users.registered"; }
/// async fn count(_: UserRegistered, ledger: Ledger) -> HandlerResult {
///     // slow work first, outside any transaction; then a short one:
///     let mut tx = ledger.begin().await?;
///     sqlx::query("UPDATE counters SET n = n + 1").execute(&mut **tx).await?;
///     tx.commit().await // effects and "done", together or not at all
/// }
/// ```
#[derive(Clone)]
pub struct Ledger(Arc<LedgerScope>);

/// What the transactions of one attempt share.
pub(crate) struct LedgerScope {
    pub(crate) db: Db,
    pub(crate) claim: Claim,
    stage: AtomicU8,
}

const UNUSED: u8 = 0;
const OPEN: u8 = 1;
const FINISHING: u8 = 2;
const COMMITTED: u8 = 3;

impl LedgerScope {
    pub(crate) fn new(db: Db, claim: Claim) -> Self {
        Self {
            db,
            claim,
            stage: AtomicU8::new(UNUSED),
        }
    }

    pub(crate) fn committed(&self) -> bool {
        self.stage.load(Ordering::Acquire) == COMMITTED
    }

    /// The delivery is finished in a transaction that nobody else can get in
    /// between: there is no lease to lose any more.
    pub(crate) fn finishing(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= FINISHING
    }

    /// A transaction was begun and never committed: its effects are gone.
    pub(crate) fn left_open(&self) -> bool {
        matches!(self.stage.load(Ordering::Acquire), OPEN | FINISHING)
    }
}

impl Ledger {
    /// The transactions of one attempt.
    pub(crate) fn over(scope: Arc<LedgerScope>) -> Self {
        Self(scope)
    }

    /// Begins a write transaction in which the delivery will be finished.
    pub async fn begin(&self) -> Result<LedgerTx, Error> {
        let mut tx = self.0.db.begin().await?;
        if planted::is("settle-before-commit") {
            crate::ledger::finish(&mut tx, &self.0.claim, self.0.db.clock().now_us()).await?;
            tx.commit().await?;
            tx = self.0.db.begin().await?;
        }
        self.0.stage.store(OPEN, Ordering::Release);
        Ok(LedgerTx {
            tx,
            scope: Arc::clone(&self.0),
        })
    }
}

impl<S> FromDelivery<S> for Ledger {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(context.ledger())
    }
}

/// A transaction whose commit also finishes the delivery. Dropped without a
/// commit it rolls back, and a handler that then returns `Ok` is in error.
pub struct LedgerTx {
    tx: Tx,
    scope: Arc<LedgerScope>,
}

impl LedgerTx {
    /// Commits the effects, the published events and "done" together. If the
    /// delivery is another worker's by now, everything is rolled back.
    pub async fn commit(mut self) -> HandlerResult {
        let now_us = self.scope.db.clock().now_us();
        let finished = crate::ledger::finish(&mut self.tx, &self.scope.claim, now_us).await?;
        if !finished && !planted::is("settle-before-commit") {
            return Err(HandlerError::lost_lease(Error::lost_lease(
                "the delivery was settled or taken over elsewhere: rolled back",
            )));
        }
        self.scope.stage.store(FINISHING, Ordering::Release);
        fault::point!("ledger.before_commit");
        if let Err(error) = self.tx.commit().await {
            self.scope.stage.store(OPEN, Ordering::Release);
            return Err(error.into());
        }
        fault::point!("ledger.after_commit");
        self.scope.stage.store(COMMITTED, Ordering::Release);
        Ok(())
    }
}

impl Deref for LedgerTx {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl DerefMut for LedgerTx {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}
