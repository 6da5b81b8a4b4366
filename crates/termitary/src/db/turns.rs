//! Write transactions take turns on one connection, and turns that follow each
//! other closely share one commit.
//!
//! The cost of a commit is the wait for the disk. If others wait for their turn already, a
//! transaction that ends leaves its work in the open database transaction, behind a savepoint, and
//! passes the connection on. The last one commits for all, and all of them get their results only
//! when the commit is on disk; the next ones have their turns meanwhile. When many transactions
//! wait, only half of them share the next commit; the others run while it is written. A turn that
//! is undone rolls back to its savepoint. If the shared commit fails, or a turn loses the database
//! transaction (a full disk rolls all of it back), every member gets the error.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use super::carrier::{self, Carrier};
use super::conn::Conn;
use super::disk::Disk;
use super::file::File;
use super::hold::{Held, Holds, Who};
use super::open::{self, Open, Publisher, Reply};
use super::patience::{BUSY, primary_code, stranger};
use super::slot::Slot;
use crate::draft::Draft;
use crate::error::Error;

/// So few share a commit in any case: more commits would cost more than is won.
const FEW: usize = 32;

/// The primary code of `SQLITE_ERROR`: the statement does not fit the open transaction.
const MISUSED: i32 = 1;

/// The one connection that writes.
pub(super) struct Turns {
    options: SqliteConnectOptions,
    file: Arc<File>,
    disk: Arc<Disk>,
    publisher: Publisher,
    holds: Arc<Holds>,
    seat: Arc<Mutex<Seat>>,
    /// Number of callers that wait for a turn.
    queued: AtomicUsize,
    /// Number of commits that wait for the disk.
    committed: Arc<AtomicUsize>,
}

/// The state that is passed from turn to turn.
#[derive(Default)]
struct Seat {
    /// Between two database transactions; made again where it was given up.
    idle: Option<Conn>,
    open: Option<Open>,
    /// A turn was dropped half-way: back to where it began before anything else.
    undo: bool,
    closed: bool,
}

impl Turns {
    /// Writes on a connection of its own, which is `conn` until it breaks.
    pub(super) fn new(
        conn: Conn,
        options: SqliteConnectOptions,
        holds: Arc<Holds>,
        file: Arc<File>,
        disk: Arc<Disk>,
        source: String,
    ) -> Arc<Self> {
        let seat = Seat {
            idle: Some(conn),
            ..Seat::default()
        };
        Arc::new(Self {
            options,
            file,
            disk,
            publisher: Publisher {
                source,
                carrier: carrier::Slot::default(),
            },
            holds,
            seat: Arc::new(Mutex::new(seat)),
            queued: AtomicUsize::new(0),
            committed: Arc::default(),
        })
    }

    /// Removes the carrier: no further events are carried.
    pub(super) fn take_carrier(&self) -> Option<Arc<dyn Carrier>> {
        self.publisher.carrier.take()
    }

    pub(super) fn set_carrier(&self, carrier: std::sync::Weak<dyn Carrier>) {
        self.publisher.carrier.set(carrier);
    }

    /// Waits for the connection, as long as `Patience` says; the callers are served
    /// in order. Dropping this future is safe: a turn that nobody takes is undone.
    pub(super) async fn begin(self: &Arc<Self>, who: Who) -> Result<Conn, Error> {
        let until = self.deadline(std::time::Instant::now());
        let mut seat = if let Ok(seat) = Arc::clone(&self.seat).try_lock_owned() {
            seat
        } else {
            let waiting = Waiting::new(self);
            let seat = self.wait(&who, until).await?;
            waiting.over();
            seat
        };
        let holding = self.hold(who);
        if !seat.undo
            && let Some(open) = seat.open.take_if(|open| open.takes_more())
        {
            return Ok(Conn::in_turn(self.turn(holding, seat, open)));
        }
        // In a task of its own: half-way it would leave a transaction open.
        tokio::spawn(Arc::clone(self).take(holding, seat, until))
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))?
            .map(Conn::in_turn)
    }

    /// Until when a caller waits that began to wait at `since`.
    fn deadline(&self, since: std::time::Instant) -> Instant {
        Instant::from_std(since + self.holds.patience.turn)
    }

    /// Waits for the seat. Looks at its holder now and then.
    async fn wait(&self, who: &Who, until: Instant) -> Result<OwnedMutexGuard<Seat>, Error> {
        let mut seat = pin!(Arc::clone(&self.seat).lock_owned());
        loop {
            let now = Instant::now();
            let look = until.min(now + self.holds.patience.look());
            if let Ok(seat) = tokio::time::timeout_at(look, seat.as_mut()).await {
                return Ok(seat);
            }
            self.holds.own(who)?;
            self.look();
            if Instant::now() >= until {
                let busy = self.holds.not_in_time();
                return Err(busy.unwrap_or_else(|| stranger(&self.file, self.holds.patience.turn)));
            }
        }
    }

    /// Returns at once, unless the calling task has a transaction open. The transaction may end
    /// soon, if the task does several things at a time. If it does not, this is an error: the task
    /// would wait for itself.
    pub(super) async fn unless_own(&self) -> Result<(), Error> {
        let who = Who::asks();
        while self.holds.own(&who)? == Held::ByItself {
            tokio::time::sleep(self.holds.patience.look() / 10).await;
        }
        Ok(())
    }

    pub(super) fn patience(&self) -> std::time::Duration {
        self.holds.patience.turn
    }

    /// Ends a transaction that does nothing and undoes it, on a thread of its own:
    /// that of every runtime may be blocked.
    pub(super) fn look(&self) {
        let Some(turn) = self.holds.look() else {
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

    fn hold(self: &Arc<Self>, who: Who) -> Holding {
        Holding {
            number: self.holds.enter(who),
            holds: Arc::clone(&self.holds),
        }
    }

    /// Returns when everything that is committed by now is on disk.
    pub(super) async fn on_disk(&self) -> Result<(), Error> {
        self.disk.has_all().await
    }

    /// The seat for the thread that writes on another connection, which was asked
    /// at `since`: nothing is open on this one meanwhile.
    pub(super) async fn alone(self: &Arc<Self>, since: std::time::Instant) -> Result<Alone, Error> {
        let who = Who::broker();
        let until = self.deadline(since);
        let mut seat = match Arc::clone(&self.seat).try_lock_owned() {
            Ok(seat) => seat,
            Err(_) => self.wait(&who, until).await?,
        };
        let holding = self.hold(who);
        seat.settle_down().await;
        seat.commit(self).await;
        if seat.closed {
            return Err(sqlx::Error::PoolClosed.into());
        }
        if let Some(rest) = self.holds.rest() {
            tokio::time::sleep(rest).await;
        }
        Ok(Alone {
            holding,
            until: until.into_std(),
            _seat: seat,
        })
    }

    /// The error of one who met another process's lock until the deadline.
    pub(super) fn stranger(&self) -> Error {
        self.holds.met_a_stranger();
        stranger(&self.file, self.holds.patience.turn)
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
        let mut seat = self.sit().await;
        seat.commit(self).await;
        seat.closed = true;
        // The log may go with the last connection.
        self.disk.rest().await;
        if let Some(conn) = seat.idle.take().and_then(Conn::into_own) {
            let _ = conn.close().await; // it has nothing left to say
        }
    }

    async fn take(
        self: Arc<Self>,
        holding: Holding,
        mut seat: OwnedMutexGuard<Seat>,
        until: Instant,
    ) -> Result<Turn, Error> {
        seat.settle_down().await;
        if seat.open.as_ref().is_some_and(|open| !open.takes_more()) {
            seat.commit(&self).await;
        }
        let open = if let Some(open) = seat.open.take() {
            open
        } else {
            self.file.is_still_there()?;
            if let Some(rest) = self.holds.rest() {
                tokio::time::sleep(rest).await;
            }
            seat.begin(&self, until).await?
        };
        Ok(self.turn(holding, seat, open))
    }

    fn turn(self: &Arc<Self>, holding: Holding, seat: OwnedMutexGuard<Seat>, open: Open) -> Turn {
        Turn {
            turns: Arc::clone(self),
            holding,
            seat,
            open: Some(open),
            touched: false,
        }
    }

    /// The error for a refused BEGIN.
    fn refused(&self, error: sqlx::Error) -> Error {
        match primary_code(&error) {
            Some(BUSY) => self.stranger().caused_by(error),
            _ => error.into(),
        }
    }

    async fn sit(&self) -> OwnedMutexGuard<Seat> {
        self.queued.fetch_add(1, Ordering::AcqRel);
        let mut seat = Arc::clone(&self.seat).lock_owned().await;
        self.queued.fetch_sub(1, Ordering::AcqRel);
        seat.settle_down().await;
        seat
    }

    /// Ends the leftovers of a dropped turn.
    async fn tidy(self: Arc<Self>) {
        let mut seat = self.sit().await;
        self.leave(&mut seat).await;
    }

    /// Leaves the commit to the next one who waits already, or sees to it.
    async fn leave(&self, seat: &mut Seat) {
        if !seat.open.as_ref().is_some_and(|open| self.passes_on(open)) {
            seat.commit(self).await;
        }
    }

    fn passes_on(&self, open: &Open) -> bool {
        let queued = self.queued.load(Ordering::Acquire);
        let others = queued + self.committed.load(Ordering::Acquire);
        let enough = self.disk.is_waited_for() && are_enough(open.kept.len(), others);
        queued > 0 && open.takes_more() && !enough
    }
}

/// The seat, and until when its holder may wait for other processes.
pub(super) struct Alone {
    holding: Holding,
    until: std::time::Instant,
    _seat: OwnedMutexGuard<Seat>,
}

impl Alone {
    pub(super) fn until(&self) -> std::time::Instant {
        self.until
    }

    /// The other connection has begun its transaction.
    pub(super) fn opened(&self) {
        self.holding.opened(Weak::new());
    }
}

/// Named as the holder of the turn until it is dropped.
struct Holding {
    number: u64,
    holds: Arc<Holds>,
}

impl Holding {
    fn opened(&self, slot: Weak<Slot>) {
        self.holds.opened(self.number, slot);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.holds.leave(self.number);
    }
}

/// One who waits for the seat. Work may be left to it: where it goes away
/// instead, somebody else sees to that.
struct Waiting<'a>(Option<&'a Arc<Turns>>);

impl<'a> Waiting<'a> {
    fn new(turns: &'a Arc<Turns>) -> Self {
        turns.queued.fetch_add(1, Ordering::AcqRel);
        Self(Some(turns))
    }

    fn over(mut self) {
        if let Some(turns) = self.0.take() {
            turns.queued.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Waiting<'_> {
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

impl Seat {
    /// A database transaction, on a new connection where the last one broke.
    async fn begin(&mut self, turns: &Turns, until: Instant) -> Result<Open, Error> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed.into());
        }
        if let Some(mut conn) = self.idle.take() {
            match open::begin(&mut conn, until).await {
                Ok(()) => return Ok(Open::new(conn)),
                // It ended, or a transaction of old is open on it still.
                Err(error) if matches!(primary_code(&error), None | Some(MISUSED)) => {
                    tracing::debug!(error = ?error, "the connection that writes is made anew");
                }
                Err(error) => {
                    self.idle = Some(conn);
                    return Err(turns.refused(error));
                }
            }
        }
        turns.file.is_still_there()?;
        let mut conn = open::connect(&turns.options, turns.holds.activity()).await?;
        turns.file.is_still_there()?;
        open::begin(&mut conn, until)
            .await
            .map_err(|error| turns.refused(error))?;
        Ok(Open::new(conn))
    }

    /// Undoes the work of a dropped turn.
    async fn settle_down(&mut self) {
        if std::mem::take(&mut self.undo) {
            self.go_back().await;
        }
    }

    /// Commits the kept work, and reports the result once it is on disk.
    async fn commit(&mut self, turns: &Turns) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        if open.kept.is_empty() {
            self.give_up(open.conn).await; // nobody's work is in it
            return;
        }
        match open.commit(&turns.publisher).await {
            Ok(onward) => {
                self.idle = Some(open.conn);
                let committed = Arc::clone(&turns.committed);
                committed.fetch_add(open.kept.len(), Ordering::AcqRel);
                turns.disk.after(move |synced| {
                    committed.fetch_sub(open.kept.len(), Ordering::AcqRel);
                    // A caller with its result may close the database at once.
                    if synced.is_ok()
                        && let Some(onward) = onward
                    {
                        onward.go();
                    }
                    answer(open.kept, synced);
                });
            }
            Err(error) => {
                self.give_up(open.conn).await;
                answer(open.kept, &Err(error));
            }
        }
    }

    /// Rolls back to the start of the turn. If its savepoint is missing, the whole database
    /// transaction is given up.
    async fn go_back(&mut self) {
        if let Some(open) = &mut self.open
            && let Err(error) = open.go_back().await
            && let Some(Open { conn, kept, .. }) = self.open.take()
        {
            self.give_up(conn).await;
            answer(kept, &Err(error));
        }
    }

    /// Rolls back any open database transaction.
    async fn give_up(&mut self, mut conn: Conn) {
        if open::roll_back(&mut conn).await.is_ok() {
            self.idle = Some(conn);
        }
    }
}

/// Returns whether enough turns share a commit, so that the next one is left to the others who wait
/// for their turn or for the disk. If all of them shared one, the disk would be idle during their
/// turns, and they during the write.
pub(super) fn are_enough(kept: usize, others: usize) -> bool {
    kept >= others.max(FEW)
}

fn answer(kept: Vec<Reply>, ended: &Result<(), Error>) {
    for reply in kept {
        // A dropped caller needs no result.
        let _ = reply.send(ended.as_ref().copied().map_err(Error::repeat));
    }
}

/// The connection, for one transaction. Dropping it without [`Turn::commit`] undoes its work.
pub(super) struct Turn {
    turns: Arc<Turns>,
    holding: Holding,
    seat: OwnedMutexGuard<Seat>,
    /// Back on the seat once the turn is over.
    open: Option<Open>,
    /// Statements may have run since the savepoint.
    touched: bool,
}

impl Turn {
    /// The transaction is open, and its connection is in `slot`.
    pub(super) fn opened(&self, slot: Weak<Slot>) {
        self.holding.opened(slot);
    }

    /// The connection, for one statement.
    pub(super) fn statement(&mut self) -> Option<&mut SqliteConnection> {
        self.touched = true;
        self.turns.holds.touched();
        self.open.as_mut()?.conn.as_own()
    }

    /// The caller has left the rest to the engine: nobody ends the turn from now on.
    pub(super) fn leave_to_engine(&self) {
        self.turns.holds.commits(self.holding.number);
    }

    /// Keeps its work and publishes `drafts`; returns when it is real.
    pub(super) async fn commit(mut self, drafts: Vec<Draft>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        if let Some(open) = &mut self.open {
            open.drafts.extend(drafts);
            open.kept.push(reply);
        }
        self.over();
        if self.passes_on() {
            self.keep(); // before the next one has the seat
            drop(self);
        } else {
            // In a task of its own: others depend on it.
            tokio::spawn(async move { self.seat.commit(&self.turns).await });
        }
        answer
            .await
            .map_err(|_| Error::internal("the runtime stopped before the transaction ended"))?
    }

    /// Undoes its work; returns when the connection is free.
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

    fn keep(&mut self) {
        if self.touched
            && let Some(open) = &mut self.seat.open
        {
            open.keep();
        }
    }

    async fn undo(mut self) {
        if self.touched {
            self.seat.go_back().await;
        }
        self.turns.leave(&mut self.seat).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        // Without a runtime the connection is closed, which undoes its work.
        if let Ok(runtime) = Handle::try_current() {
            self.seat.open = Some(open);
            self.seat.undo = self.touched;
            runtime.spawn(Arc::clone(&self.turns).tidy());
        }
    }
}
