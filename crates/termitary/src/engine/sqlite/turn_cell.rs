//! The turn of a transaction, shared by the transaction and by the watchdog that ends it
//! if it stands still.

use std::sync::{Arc, OnceLock};

use sqlx::SqliteConnection;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use super::turn::Turn;
use crate::error::{Error, Kind};

pub(in crate::engine) struct TurnCell {
    /// Locked for one statement. `None` once the turn is over or was taken away.
    turn: Mutex<Option<Turn>>,
    /// Why the transaction was ended.
    ended: OnceLock<String>,
}

impl TurnCell {
    pub(in crate::engine) fn of(turn: Turn) -> Arc<Self> {
        Arc::new_cyclic(|cell| {
            turn.opened(cell.clone());
            Self {
                turn: Mutex::new(Some(turn)),
                ended: OnceLock::new(),
            }
        })
    }

    /// Borrows the connection for one statement.
    pub(in crate::engine) fn borrow(
        &self,
    ) -> Result<MappedMutexGuard<'_, SqliteConnection>, sqlx::Error> {
        if self.ended.get().is_none()
            && let Ok(turn) = self.turn.try_lock()
            && let Ok(conn) = MutexGuard::try_map(turn, |turn| turn.as_mut()?.statement())
        {
            return Ok(conn);
        }
        Err(sqlx::Error::Io(std::io::Error::other(self.error())))
    }

    /// Takes the turn out, to end it. The caller has no statement running.
    pub(in crate::engine) fn take(&self) -> Result<Turn, Error> {
        let turn = self.turn.try_lock().ok().and_then(|mut turn| turn.take());
        turn.ok_or_else(|| self.error())
    }

    /// Marks the transaction as ended. Returns whether it was not yet.
    pub(in crate::engine) fn end(&self, reason: String) -> bool {
        self.ended.set(reason).is_ok()
    }

    /// The error of a transaction that was ended.
    pub(in crate::engine) fn ended(&self) -> Option<Error> {
        let reason = self.ended.get()?;
        Some(Error::new(Kind::Busy, reason.clone()))
    }

    fn error(&self) -> Error {
        self.ended()
            .unwrap_or_else(|| Error::internal("the connection of this transaction is in use"))
    }
}
