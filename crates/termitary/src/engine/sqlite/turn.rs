//! One turn on the connection that writes.

use std::sync::{Arc, Weak};

use sqlx::SqliteConnection;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::commit_hook::Work;
use super::connection_slot::ConnectionSlot;
use super::holder::Holding;
use super::transaction::Transaction;
use super::turn_cell::TurnCell;
use super::turns::Turns;
use crate::error::Error;

/// The connection for one transaction. Dropped without [`Turn::commit`], its work is
/// undone.
pub(in crate::engine) struct Turn {
    turns: Arc<Turns>,
    holding: Holding,
    slot: OwnedMutexGuard<ConnectionSlot>,
    /// Goes back to the slot once the turn is over.
    transaction: Option<Transaction>,
    /// Statements may have run since the savepoint.
    touched: bool,
}

impl Turn {
    pub(super) fn new(
        turns: Arc<Turns>,
        holding: Holding,
        slot: OwnedMutexGuard<ConnectionSlot>,
        transaction: Transaction,
    ) -> Self {
        Self {
            turns,
            holding,
            slot,
            transaction: Some(transaction),
            touched: false,
        }
    }

    /// The transaction is open, and this turn is in `cell`.
    pub(in crate::engine) fn opened(&self, cell: Weak<TurnCell>) {
        self.holding.opened(cell);
    }

    /// The connection, for one statement.
    pub(in crate::engine) fn statement(&mut self) -> Option<&mut SqliteConnection> {
        self.touched = true;
        self.turns.watch.touched();
        self.transaction.as_mut()?.conn.as_own()
    }

    /// The caller has left the rest to the engine: nobody ends the turn from now on.
    pub(in crate::engine) fn leave_to_engine(&self) {
        self.holding.commits();
    }

    /// Keeps the work of the turn, and `left` for the end of the database transaction;
    /// returns once it is real.
    pub(in crate::engine) async fn commit(mut self, left: Option<Work>) -> Result<(), Error> {
        let (reply, committed) = oneshot::channel();
        if let Some(transaction) = &mut self.transaction {
            transaction.left.extend(left);
            transaction.kept.push(reply);
        }
        if self.end() {
            drop(self);
        } else {
            // In a task of its own: other callers depend on it.
            tokio::spawn(async move { self.slot.commit(&self.turns).await });
        }
        committed
            .await
            .map_err(|_| Error::internal("the runtime stopped before the transaction ended"))?
    }

    /// Undoes the work of the turn; returns once the connection is free.
    pub(in crate::engine) async fn rollback(self) -> Result<(), Error> {
        tokio::spawn(self.undo())
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))
    }

    /// Puts the transaction back. Returns whether the next caller takes it over; then
    /// the work is behind a savepoint.
    fn end(&mut self) -> bool {
        let Some(transaction) = self.transaction.take() else {
            return false;
        };
        let passes_on = self.turns.passes_on(&transaction);
        let transaction = self.slot.put_back(transaction);
        if passes_on && self.touched {
            transaction.keep(); // before the next caller has the slot
        }
        passes_on
    }

    pub(in crate::engine) async fn undo(mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.slot.put_back(transaction);
        }
        if self.touched {
            self.slot.go_back().await;
        }
        self.turns.leave(&mut self.slot).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        // Without a runtime the connection is closed, which undoes the work.
        if let Ok(runtime) = Handle::try_current() {
            self.slot.put_back(transaction);
            if self.touched {
                self.slot.undo_later();
            }
            runtime.spawn(Arc::clone(&self.turns).tidy());
        }
    }
}
