//! Write transactions take turns on one connection, and turns that follow each other
//! closely share one commit.
//!
//! A commit costs the wait for the disk. If others wait for their turn already, a
//! transaction that ends leaves its work in the open database transaction, behind a
//! savepoint, and hands the connection on; the last one commits for all. Each caller
//! gets its reply once the disk has the commit: the next ones have their turns
//! meanwhile. When many wait, only half of them share the next commit; the others run
//! while it is written to disk. An undone turn goes back to its savepoint. If the shared
//! commit fails, or a turn loses the database transaction (a full disk rolls all of it
//! back), every caller in it gets that error.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::commit_hook::CommitHook;
use super::connection_slot::ConnectionSlot;
use super::disk::Disk;
use super::file::File;
use super::holder::{Caller, HeldBy, Holding, TurnWatch};
use super::startup::{BUSY, locked_elsewhere, primary_code};
use super::transaction::Transaction;
use super::turn::Turn;
use crate::engine::Conn;
use crate::error::Error;

/// The smallest number of turns for which a second commit is worth its cost.
const FEW: usize = 32;

/// The queue for the one connection that writes.
pub(super) struct Turns {
    pub(super) options: SqliteConnectOptions,
    pub(super) file: Arc<File>,
    pub(super) disk: Arc<Disk>,
    pub(super) hook: Arc<dyn CommitHook>,
    pub(super) watch: Arc<TurnWatch>,
    slot: Arc<Mutex<ConnectionSlot>>,
    /// The number of callers that wait for the slot.
    queued: AtomicUsize,
    /// The number of turns that wait for the disk.
    pub(super) committed: Arc<AtomicUsize>,
}

impl Turns {
    /// Writes on `conn`, and on a new connection if that breaks.
    pub(super) fn new(
        conn: Conn,
        options: SqliteConnectOptions,
        watch: Arc<TurnWatch>,
        file: Arc<File>,
        disk: Arc<Disk>,
        hook: Arc<dyn CommitHook>,
    ) -> Arc<Self> {
        Arc::new(Self {
            options,
            file,
            disk,
            hook,
            watch,
            slot: Arc::new(Mutex::new(ConnectionSlot::of(conn))),
            queued: AtomicUsize::new(0),
            committed: Arc::default(),
        })
    }

    /// Waits for the connection, within [`WaitLimits`](super::holder::WaitLimits).
    /// Callers are served in order. Dropping this future is safe: a turn that nobody
    /// takes is undone.
    pub(super) async fn begin(self: &Arc<Self>, caller: Caller) -> Result<Conn, Error> {
        let until = self.deadline(std::time::Instant::now());
        let mut slot = if let Ok(slot) = Arc::clone(&self.slot).try_lock_owned() {
            slot
        } else {
            let place = QueuePlace::new(self);
            let slot = self.wait(&caller, until).await?;
            place.leave();
            slot
        };
        let holding = self.watch.enter(caller);
        if let Some(transaction) = slot.take_shareable() {
            let turn = Turn::new(Arc::clone(self), holding, slot, transaction);
            return Ok(Conn::in_turn(turn));
        }
        // In a task of its own: dropped half-way it would leave a transaction open.
        tokio::spawn(Arc::clone(self).start(holding, slot, until))
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))?
            .map(Conn::in_turn)
    }

    /// The end of a wait that began at `since`.
    fn deadline(&self, since: std::time::Instant) -> Instant {
        Instant::from_std(since + self.watch.limits.turn)
    }

    /// Waits for the slot. Looks at its holder now and then.
    async fn wait(
        &self,
        caller: &Caller,
        until: Instant,
    ) -> Result<OwnedMutexGuard<ConnectionSlot>, Error> {
        let mut slot = pin!(Arc::clone(&self.slot).lock_owned());
        loop {
            let now = Instant::now();
            let look = until.min(now + self.watch.limits.look());
            if let Ok(slot) = tokio::time::timeout_at(look, slot.as_mut()).await {
                return Ok(slot);
            }
            self.watch.held_by(caller)?;
            self.look();
            if Instant::now() >= until {
                let busy = self.watch.not_in_time();
                return Err(
                    busy.unwrap_or_else(|| locked_elsewhere(&self.file, self.watch.limits.turn))
                );
            }
        }
    }

    /// Returns at once, unless the calling task has a transaction open. The
    /// transaction may end soon if the task does several things at a time; if it does
    /// not, this is an error, since the task would wait for itself.
    pub(super) async fn unless_own(&self) -> Result<(), Error> {
        let caller = Caller::asks();
        while self.watch.held_by(&caller)? == HeldBy::TheCaller {
            tokio::time::sleep(self.watch.limits.look() / 10).await;
        }
        Ok(())
    }

    pub(super) fn patience(&self) -> Duration {
        self.watch.limits.turn
    }

    /// Ends a transaction that stands still, and undoes it on a thread of its own: every
    /// runtime may be blocked.
    pub(super) fn look(&self) {
        let Some(turn) = self.watch.look() else {
            return;
        };
        let undo = move || match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime.block_on(turn.undo()),
            Err(error) => tracing::error!(%error, "cannot undo a transaction that was ended"),
        };
        let started = std::thread::Builder::new()
            .name("termitary-undo".to_owned())
            .spawn(undo);
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the thread that undoes a transaction");
        }
    }

    /// Returns once everything that is committed now is on the disk.
    pub(super) async fn on_disk(&self) -> Result<(), Error> {
        self.disk.has_all().await
    }

    /// Takes the slot for the thread that writes on another connection, whose wait
    /// began at `since`: no transaction is open on this one meanwhile.
    pub(super) async fn alone(self: &Arc<Self>, since: std::time::Instant) -> Result<Alone, Error> {
        let caller = Caller::broker();
        let until = self.deadline(since);
        let mut slot = match Arc::clone(&self.slot).try_lock_owned() {
            Ok(slot) => slot,
            Err(_) => self.wait(&caller, until).await?,
        };
        let holding = self.watch.enter(caller);
        slot.undo_dropped().await;
        slot.commit(self).await;
        slot.refuse_closed()?;
        if let Some(pause) = self.watch.pause() {
            tokio::time::sleep(pause).await;
        }
        Ok(Alone {
            holding,
            until: until.into_std(),
            _slot: slot,
        })
    }

    /// The error of a caller that met another process's lock until its deadline.
    pub(super) fn locked_elsewhere(&self) -> Error {
        self.watch.met_another_process();
        locked_elsewhere(&self.file, self.watch.limits.turn)
    }

    /// Returns whether nobody writes.
    #[cfg(test)]
    pub(super) fn at_rest(&self) -> bool {
        self.slot.try_lock().is_ok_and(|slot| slot.is_free())
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Refuses every further transaction.
    pub(super) async fn close(&self) {
        let mut slot = self.take_slot().await;
        slot.commit(self).await;
        // The log may go with the last connection.
        self.disk.rest().await;
        slot.close().await;
    }

    async fn start(
        self: Arc<Self>,
        holding: Holding,
        mut slot: OwnedMutexGuard<ConnectionSlot>,
        until: Instant,
    ) -> Result<Turn, Error> {
        slot.undo_dropped().await;
        let transaction = if let Some(transaction) = slot.take_shareable() {
            transaction
        } else {
            slot.commit(&self).await;
            self.file.is_still_there()?;
            if let Some(pause) = self.watch.pause() {
                tokio::time::sleep(pause).await;
            }
            slot.begin(&self, until).await?
        };
        Ok(Turn::new(self, holding, slot, transaction))
    }

    /// The error of a refused BEGIN.
    pub(super) fn refused(&self, error: sqlx::Error) -> Error {
        match primary_code(&error) {
            Some(BUSY) => self.locked_elsewhere().caused_by(error),
            _ => error.into(),
        }
    }

    async fn take_slot(&self) -> OwnedMutexGuard<ConnectionSlot> {
        self.queued.fetch_add(1, Ordering::AcqRel);
        let mut slot = Arc::clone(&self.slot).lock_owned().await;
        self.queued.fetch_sub(1, Ordering::AcqRel);
        slot.undo_dropped().await;
        slot
    }

    /// Ends the rest of a dropped turn.
    pub(super) async fn tidy(self: Arc<Self>) {
        let mut slot = self.take_slot().await;
        self.leave(&mut slot).await;
    }

    /// Leaves the commit to the next caller that waits already, or commits.
    pub(super) async fn leave(&self, slot: &mut ConnectionSlot) {
        if !slot.transaction().is_some_and(|open| self.passes_on(open)) {
            slot.commit(self).await;
        }
    }

    /// Returns whether the next caller takes over the transaction.
    pub(super) fn passes_on(&self, transaction: &Transaction) -> bool {
        let queued = self.queued.load(Ordering::Acquire);
        let others = queued + self.committed.load(Ordering::Acquire);
        let enough = self.disk.is_waited_for() && are_enough(transaction.kept.len(), others);
        queued > 0 && transaction.takes_more() && !enough
    }
}

/// The slot, held for the writing thread, and its deadline for other processes' locks.
pub(super) struct Alone {
    holding: Holding,
    until: std::time::Instant,
    _slot: OwnedMutexGuard<ConnectionSlot>,
}

impl Alone {
    pub(super) fn until(&self) -> std::time::Instant {
        self.until
    }

    /// The other connection has begun its transaction.
    pub(super) fn opened(&self) {
        self.holding.opened(std::sync::Weak::new());
    }
}

/// A place in the queue for the slot. A turn may leave its commit to this place: if its
/// caller goes away, a task of its own commits instead.
struct QueuePlace<'a>(Option<&'a Arc<Turns>>);

impl<'a> QueuePlace<'a> {
    fn new(turns: &'a Arc<Turns>) -> Self {
        turns.queued.fetch_add(1, Ordering::AcqRel);
        Self(Some(turns))
    }

    fn leave(mut self) {
        if let Some(turns) = self.0.take() {
            turns.queued.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        turns.queued.fetch_sub(1, Ordering::AcqRel);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(Arc::clone(turns).tidy());
        }
    }
}

/// Returns whether `kept` turns share a commit and leave the next one to the `others`, which
/// wait for their turn or for the disk. If all of them shared one commit, the disk would
/// idle during their turns, and they during the write.
pub(super) fn are_enough(kept: usize, others: usize) -> bool {
    kept >= others.max(FEW)
}
