//! Effectively once: effects, new events and "done" in one transaction.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::{Context, FromDelivery, HandlerError, HandlerResult, Meta};
use crate::db::{Db, Tx};
use crate::delivery::Claim;
use crate::error::{Error, Kind};
use crate::fault;
use crate::planted;
use crate::trace::Owner;

/// Lets a handler finish its delivery inside a transaction of its own:
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use termitary::prelude::*;
/// # #[derive(Serialize, Deserialize)]
/// # struct UserRegistered {}
/// # impl Event for UserRegistered { const NAME: &'static str = "users.registered"; }
/// async fn count(_: UserRegistered, ledger: Ledger) -> HandlerResult {
///     // slow work first, outside any transaction; then a short one:
///     let mut tx = ledger.begin().await?;
///     sqlx::query("UPDATE counters SET n = n + 1").execute(&mut *tx).await?;
///     tx.commit().await // effects and "done", together or not at all
/// }
/// ```
#[derive(Clone)]
pub struct Ledger(Arc<LedgerScope>);

/// The state that the transactions of one attempt share.
pub(crate) struct LedgerScope {
    pub(crate) db: Db,
    pub(crate) claim: Claim,
    stage: AtomicU8,
    run: Option<Run>,
}

/// The attempt, if a worker runs it.
struct Run {
    meta: Arc<Meta>,
    lease: Duration,
    end: Arc<dyn End>,
}

/// Ends an attempt from outside.
pub(crate) trait End: Send + Sync {
    /// A transaction of the attempt was ended.
    fn end(&self, reason: &str);
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
            run: None,
        }
    }

    /// The same for an attempt that a worker runs, and that `end` ends.
    pub(crate) fn of(mut self, meta: Arc<Meta>, lease: Duration, end: Arc<dyn End>) -> Self {
        self.run = Some(Run { meta, lease, end });
        self
    }

    /// Fails if a transaction was open for longer than a lease lasts: no lease could be
    /// renewed meanwhile.
    fn within_the_lease(&self, open: Duration) -> Result<(), Error> {
        match &self.run {
            Some(Run { lease, .. }) if open > *lease => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the transaction was open for {} s, and a lease lasts {} s: no lease could be renewed meanwhile. It was rolled back: do slow work before `Ledger::begin`",
                    open.as_secs(),
                    lease.as_secs_f32()
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn committed(&self) -> bool {
        self.stage.load(Ordering::Acquire) == COMMITTED
    }

    /// Returns whether a transaction that no other writer can interrupt finishes the
    /// delivery: there is no lease to lose any more.
    pub(crate) fn finishing(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= FINISHING
    }

    /// Returns whether a transaction was begun and never committed: its effects are gone.
    pub(crate) fn left_open(&self) -> bool {
        matches!(self.stage.load(Ordering::Acquire), OPEN | FINISHING)
    }
}

impl Owner for LedgerScope {
    fn name(&self) -> String {
        match &self.run {
            Some(run) => format!("the handler of `{}`", run.meta.subscription),
            None => "a handler".to_owned(),
        }
    }

    fn ended(&self, reason: &str) {
        if let Some(run) = &self.run {
            run.end.end(reason);
        }
    }
}

impl Ledger {
    /// The transactions of one attempt.
    pub(crate) fn over(scope: Arc<LedgerScope>) -> Self {
        Self(scope)
    }

    /// Begins a write transaction in which the delivery will be finished.
    ///
    /// Keep it short: every other writer waits. One that runs no statement for three
    /// seconds is rolled back and ends the attempt with an error, even if it blocks its
    /// thread. One that was open for longer than a lease is rolled back at its commit.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::begin`].
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<LedgerTx, Error>> + Send {
        self.begin_at(Location::caller())
    }

    async fn begin_at(&self, place: &'static Location<'static>) -> Result<LedgerTx, Error> {
        let mut tx = self.0.db.begin_at(place).await?;
        if planted::is("settle-before-commit") {
            crate::ledger::finish(&mut tx, &self.0.claim, self.0.db.clock().now_us()).await?;
            tx.commit().await?;
            tx = self.0.db.begin_at(place).await?;
        }
        self.0.stage.store(OPEN, Ordering::Release);
        Ok(LedgerTx {
            tx,
            since: Instant::now(),
            scope: Arc::clone(&self.0),
        })
    }
}

impl<S> FromDelivery<S> for Ledger {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(context.ledger())
    }
}

/// A transaction whose commit also finishes the delivery. Dropping it without a commit rolls it
/// back, and a handler that then returns `Ok` is in error.
pub struct LedgerTx {
    tx: Tx,
    since: Instant,
    scope: Arc<LedgerScope>,
}

impl LedgerTx {
    /// Commits the effects, the published events and "done" together.
    ///
    /// # Errors
    ///
    /// Rolls everything back if another worker holds the delivery now, if the
    /// transaction was open for longer than a lease, or if the database could not commit.
    pub async fn commit(mut self) -> HandlerResult {
        self.scope.within_the_lease(self.since.elapsed())?;
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
