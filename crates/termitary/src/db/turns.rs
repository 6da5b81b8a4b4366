//! Write transactions take turns on one connection, and turns that follow each
//! other closely share one commit.
//!
//! What a commit costs is the wait for the disk. Where others wait for their
//! turn already, a transaction that ends leaves its work in the open database
//! transaction, behind a savepoint, and hands the connection on; the last one
//! commits for all, and only then is any of them answered. An undone turn goes
//! back to its savepoint. Where the shared commit fails, or a turn loses the
//! database transaction (a full disk rolls all of it back), everybody in it is
//! told so.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::error::Error;
use crate::ledger;
use crate::publish::Draft;

/// A transaction that reads first and writes later would fail with
/// `SQLITE_BUSY` at once, whatever the busy timeout: so it writes from the start.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT termitary_turn";
const KEEP: &str = "RELEASE SAVEPOINT termitary_turn; SAVEPOINT termitary_turn";
const UNDO: &str = "ROLLBACK TO SAVEPOINT termitary_turn";

/// No turn joins a database transaction that is older, so that nobody's commit
/// waits long for others. Unit tests share whatever can be shared, however slow
/// the machine.
const SHARED_FOR: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 2 });
const MOST: usize = 512;

type Reply = oneshot::Sender<Result<(), Error>>;

/// The one connection that writes.
pub(super) struct Turns {
    pool: SqlitePool,
    source: String,
    seat: Arc<Mutex<Seat>>,
    /// How many wait for the seat.
    queued: AtomicUsize,
}

/// What is handed on from turn to turn.
#[derive(Default)]
struct Seat {
    open: Option<Open>,
    /// A turn was dropped half-way: back to its savepoint before anything else.
    undo: bool,
}

/// A database transaction and whose work is in it.
struct Open {
    tx: Transaction<'static, Sqlite>,
    since: Instant,
    /// To be published with the commit.
    drafts: Vec<Draft>,
    kept: Vec<Reply>,
}

impl Turns {
    /// `pool` has one connection, for writing.
    pub(super) fn new(pool: SqlitePool, source: String) -> Arc<Self> {
        Arc::new(Self {
            pool,
            source,
            seat: Arc::default(),
            queued: AtomicUsize::new(0),
        })
    }

    /// Waits for the connection; they are served in order. Dropping this future
    /// is safe: a turn that nobody takes is undone.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Turn, Error> {
        // In a task of its own: half-way it would leave a transaction open.
        tokio::spawn(Arc::clone(self).take())
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))?
    }

    /// Nobody writes.
    #[cfg(test)]
    pub(crate) fn at_rest(&self) -> bool {
        self.seat.try_lock().is_ok_and(|seat| seat.open.is_none())
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// After this nobody begins any more.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    async fn take(self: Arc<Self>) -> Result<Turn, Error> {
        let mut seat = self.sit().await;
        if seat.open.as_ref().is_some_and(|open| !open.takes_more()) {
            seat.commit(&self.source).await;
        }
        let open = match seat.open.take() {
            Some(open) => open,
            None => Open::begin(&self.pool).await?,
        };
        Ok(Turn {
            turns: self,
            seat,
            open: Some(open),
            touched: false,
        })
    }

    async fn sit(&self) -> OwnedMutexGuard<Seat> {
        let queued = Queued::new(&self.queued);
        let mut seat = Arc::clone(&self.seat).lock_owned().await;
        drop(queued);
        if std::mem::take(&mut seat.undo) {
            seat.mark(UNDO).await;
        }
        seat
    }

    /// Ends what a dropped turn left behind.
    async fn tidy(self: Arc<Self>) {
        let mut seat = self.sit().await;
        self.leave(&mut seat).await;
    }

    /// Leaves the commit to the next one who waits already, or sees to it.
    async fn leave(&self, seat: &mut Seat) {
        if !seat.open.as_ref().is_some_and(|open| self.passes_on(open)) {
            seat.commit(&self.source).await;
        }
    }

    fn passes_on(&self, open: &Open) -> bool {
        self.queued.load(Ordering::Acquire) > 0 && open.takes_more()
    }
}

/// Waits for the seat, until dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(queued: &'a AtomicUsize) -> Self {
        queued.fetch_add(1, Ordering::AcqRel);
        Self(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Seat {
    /// Makes real what was kept, and answers for it.
    async fn commit(&mut self, source: &str) {
        let Some(open) = self.open.take() else {
            return;
        };
        let Open {
            tx, drafts, kept, ..
        } = open;
        if kept.is_empty() {
            let _ = tx.rollback().await; // nobody's work is in it
            return;
        }
        let ended = publish_and_commit(tx, source, &drafts).await;
        answer(kept, &ended);
    }

    /// Moves the savepoint, or goes back to it. Where there is none any more,
    /// the whole database transaction is gone.
    async fn mark(&mut self, statement: &'static str) {
        let Some(open) = &mut self.open else {
            return;
        };
        if let Err(error) = sqlx::raw_sql(statement).execute(&mut *open.tx).await
            && let Some(Open { tx, kept, .. }) = self.open.take()
        {
            let _ = tx.rollback().await; // whatever is left of it
            answer(kept, &Err(error.into()));
        }
    }
}

async fn publish_and_commit(
    mut tx: Transaction<'static, Sqlite>,
    source: &str,
    drafts: &[Draft],
) -> Result<(), Error> {
    if !drafts.is_empty() {
        ledger::publish(&mut tx, source, drafts).await?;
    }
    Ok(tx.commit().await?)
}

fn answer(kept: Vec<Reply>, ended: &Result<(), Error>) {
    for reply in kept {
        // Whoever does not wait any more needs no answer.
        let _ = reply.send(ended.as_ref().copied().map_err(Error::repeat));
    }
}

impl Open {
    async fn begin(pool: &SqlitePool) -> Result<Self, Error> {
        Ok(Self {
            tx: begin(pool).await?,
            since: Instant::now(),
            drafts: Vec::new(),
            kept: Vec::new(),
        })
    }

    fn takes_more(&self) -> bool {
        self.since.elapsed() < SHARED_FOR && self.kept.len() < MOST
    }
}

async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    match pool.begin_with(BEGIN).await {
        // SQLite ended a transaction by itself (a full disk) and sqlx believes
        // it open for ever: such a connection is useless.
        Err(sqlx::Error::InvalidSavePointStatement) => {
            pool.acquire().await?.close().await?;
            pool.begin_with(BEGIN).await
        }
        begun => begun,
    }
}

/// The connection, for one transaction. Dropped without [`Turn::commit`], what
/// was done is undone.
pub(super) struct Turn {
    turns: Arc<Turns>,
    seat: OwnedMutexGuard<Seat>,
    /// Back on the seat once the turn is over.
    open: Option<Open>,
    /// Statements may have run since the savepoint.
    touched: bool,
}

impl Turn {
    /// Keeps what was done and publishes `drafts`; returns when it is real.
    pub(super) async fn commit(mut self, drafts: Vec<Draft>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        if let Some(open) = &mut self.open {
            open.drafts.extend(drafts);
            open.kept.push(reply);
        }
        self.over();
        if self.touched || !self.passes_on() {
            // In a task of its own: others depend on it.
            tokio::spawn(self.keep());
        } else {
            drop(self);
        }
        answer
            .await
            .map_err(|_| Error::internal("the runtime stopped before the transaction ended"))?
    }

    /// Undoes what was done; returns when the connection is free.
    pub(super) async fn rollback(mut self) -> Result<(), Error> {
        self.over();
        tokio::spawn(self.undo())
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))
    }

    fn over(&mut self) {
        self.seat.open = self.open.take();
    }

    fn passes_on(&self) -> bool {
        let open = self.seat.open.as_ref();
        open.is_some_and(|open| self.turns.passes_on(open))
    }

    async fn keep(mut self) {
        // Asked once: what is left to the next one has to be behind the savepoint.
        if !self.passes_on() {
            self.seat.commit(&self.turns.source).await;
        } else if self.touched {
            self.seat.mark(KEEP).await;
        }
    }

    async fn undo(mut self) {
        if self.touched {
            self.seat.mark(UNDO).await;
        }
        self.turns.leave(&mut self.seat).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        if open.kept.is_empty() {
            return; // nobody else is in it: dropped, it rolls back
        }
        if let Ok(runtime) = Handle::try_current() {
            self.seat.open = Some(open);
            self.seat.undo = self.touched;
            runtime.spawn(Arc::clone(&self.turns).tidy());
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "only what consumes the turn takes the transaction out of it"
)]
impl Deref for Turn {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.open.as_ref().expect("the turn is not over").tx
    }
}

#[expect(
    clippy::expect_used,
    reason = "only what consumes the turn takes the transaction out of it"
)]
impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.touched = true;
        &mut self.open.as_mut().expect("the turn is not over").tx
    }
}
