//! The connection that users write on, as it is handed from turn to turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::Connection as _;
use tokio::time::Instant;

use super::startup::primary_code;
use super::transaction::{self, Reply, Transaction};
use super::turns::Turns;
use crate::engine::Conn;
use crate::error::Error;

/// The primary code of `SQLITE_ERROR`: the statement does not fit what is open.
const MISUSED: i32 = 1;

/// The connection, idle or in a transaction.
#[derive(Default)]
pub(super) struct ConnectionSlot {
    /// Between two database transactions; `None` also after the connection broke.
    idle: Option<Conn>,
    open: Option<Transaction>,
    /// A turn was dropped half-way: its work must be undone before anything else.
    undo: bool,
    closed: bool,
}

impl ConnectionSlot {
    pub(super) fn of(conn: Conn) -> Self {
        Self {
            idle: Some(conn),
            ..Self::default()
        }
    }

    /// Takes out the open transaction if a further turn may join it.
    pub(super) fn take_shareable(&mut self) -> Option<Transaction> {
        if self.undo {
            return None;
        }
        self.open.take_if(|open| open.takes_more())
    }

    pub(super) fn transaction(&self) -> Option<&Transaction> {
        self.open.as_ref()
    }

    /// Puts the transaction back at the end of a turn.
    pub(super) fn put_back(&mut self, transaction: Transaction) -> &mut Transaction {
        self.open.insert(transaction)
    }

    /// Marks the work of the last turn to be undone.
    pub(super) fn undo_later(&mut self) {
        self.undo = true;
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.open.is_none()
    }

    pub(super) fn refuse_closed(&self) -> Result<(), Error> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed.into());
        }
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        self.closed = true;
        if let Some(conn) = self.idle.take().and_then(Conn::into_own) {
            let _ = conn.close().await; // nothing is left to do on it
        }
    }

    /// Begins a database transaction, on a new connection if the last one broke.
    pub(super) async fn begin(
        &mut self,
        turns: &Turns,
        until: Instant,
    ) -> Result<Transaction, Error> {
        self.refuse_closed()?;
        if let Some(mut conn) = self.idle.take() {
            match transaction::begin(&mut conn, until).await {
                Ok(()) => return Ok(Transaction::new(conn)),
                // The connection ended, or an old transaction is open on it still.
                Err(error) if matches!(primary_code(&error), None | Some(MISUSED)) => {
                    tracing::debug!(error = ?error, "the connection that writes is opened again");
                }
                Err(error) => {
                    self.idle = Some(conn);
                    return Err(turns.refused(error));
                }
            }
        }
        turns.file.is_still_there()?;
        let mut conn = transaction::connect(&turns.options, turns.watch.activity()).await?;
        turns.file.is_still_there()?;
        transaction::begin(&mut conn, until)
            .await
            .map_err(|error| turns.refused(error))?;
        Ok(Transaction::new(conn))
    }

    /// Undoes the work of a dropped turn.
    pub(super) async fn undo_dropped(&mut self) {
        if std::mem::take(&mut self.undo) {
            self.go_back().await;
        }
    }

    /// Commits the open transaction, and replies to its callers once the disk has it.
    pub(super) async fn commit(&mut self, turns: &Turns) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        if open.kept.is_empty() {
            self.give_up(open.conn).await; // no caller's work is in it
            return;
        }
        match open.commit(&*turns.hook).await {
            Ok(after) => {
                self.idle = Some(open.conn);
                let committed = Arc::clone(&turns.committed);
                committed.fetch_add(open.kept.len(), Ordering::AcqRel);
                turns.disk.after(move |synced| {
                    committed.fetch_sub(open.kept.len(), Ordering::AcqRel);
                    // First, since a caller may close the database once it has its reply.
                    if synced.is_ok()
                        && let Some(after) = after
                    {
                        after();
                    }
                    reply(open.kept, synced);
                });
            }
            Err(error) => {
                self.give_up(open.conn).await;
                reply(open.kept, &Err(error));
            }
        }
    }

    /// Goes back to the beginning of the last turn. If its savepoint is missing, all of
    /// the database transaction is given up.
    pub(super) async fn go_back(&mut self) {
        if let Some(open) = &mut self.open
            && let Err(error) = open.go_back().await
            && let Some(Transaction { conn, kept, .. }) = self.open.take()
        {
            self.give_up(conn).await;
            reply(kept, &Err(error));
        }
    }

    /// Undoes the rest of a database transaction.
    async fn give_up(&mut self, mut conn: Conn) {
        if transaction::roll_back(&mut conn).await.is_ok() {
            self.idle = Some(conn);
        }
    }
}

fn reply(kept: Vec<Reply>, ended: &Result<(), Error>) {
    for reply in kept {
        // A caller that stopped waiting needs no reply.
        let _ = reply.send(ended.as_ref().copied().map_err(Error::repeat));
    }
}
