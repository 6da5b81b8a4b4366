//! The thread that writes for brokers. Requests that come while one transaction runs share the
//! next, which begins while the last is written to disk.
//!
//! It writes on a connection of its own, without a hop to another thread for
//! each statement, which would cost more than most statements do (decision
//! 0006). Within the process the seat of `turns` keeps it apart from the
//! transactions of users; other processes are waited for in short steps.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::file::{File, existing};
use super::turns::Turns;
use super::{CHECKPOINT_PAGES, JOURNAL_BYTES, MOST, SHARED_FOR};
use crate::error::Error;
use crate::fault;

/// Statements are prepared once; there are fewer different ones than this.
const STATEMENTS: usize = 64;

/// A request, until it has its result.
pub(crate) trait Asked: Send {
    /// Within a transaction that others share: an error undoes all of it.
    fn run(&mut self, conn: &Connection) -> Result<(), Error>;
    /// Its work is committed, or was undone.
    fn answer(self: Box<Self>, ended: &Result<(), Error>);
}

enum Item {
    /// A request, and when it began to wait.
    Work(Box<dyn Asked>, Instant),
    /// The last one: no more work is taken.
    Close(oneshot::Sender<()>),
}

/// The door to the thread, which starts when it is first needed and ends with
/// this.
pub(super) struct Writer {
    turns: Arc<Turns>,
    file: Arc<File>,
    disk: Arc<Disk>,
    inbox: OnceLock<Sender<Item>>,
}

impl Writer {
    pub(super) fn new(turns: Arc<Turns>, file: Arc<File>, disk: Arc<Disk>) -> Self {
        Self {
            turns,
            file,
            disk,
            inbox: OnceLock::new(),
        }
    }

    /// Runs it in a transaction with other waiting requests; it gets its result once that is over.
    pub(super) fn ask(&self, asked: Box<dyn Asked>, since: Instant) {
        let item = Item::Work(asked, since);
        if let Err(mpsc::SendError(Item::Work(asked, _))) = self.inbox().send(item) {
            asked.answer(&Err(sqlx::Error::PoolClosed.into()));
        }
    }

    /// Serves the earlier requests, and no later ones.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if let Some(inbox) = self.inbox.get()
            && inbox.send(Item::Close(done)).is_ok()
        {
            let _ = closed.await; // an error: it ended before
        }
    }

    fn start(&self, inbox: Receiver<Item>) -> std::io::Result<()> {
        let thread = Thread {
            turns: Arc::clone(&self.turns),
            file: Arc::clone(&self.file),
            disk: Arc::clone(&self.disk),
            inbox,
            waits: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?,
            conn: None,
            closing: None,
        };
        std::thread::Builder::new()
            .name("termitary-writer".to_owned())
            .spawn(|| thread.serve())
            .map(drop)
    }

    fn inbox(&self) -> &Sender<Item> {
        self.inbox.get_or_init(|| {
            let (sender, inbox) = mpsc::channel();
            if let Err(error) = self.start(inbox) {
                tracing::error!(%error, "cannot start the thread that writes");
            }
            sender
        })
    }
}

/// One caller's work, its result, and the waiting caller.
pub(super) struct Question<W, T, N, U> {
    work: Option<W>,
    made: Option<T>,
    then: N,
    reply: oneshot::Sender<Result<U, Error>>,
}

impl<W, T, N, U> Question<W, T, N, U> {
    /// Runs `work`; the caller gets its result, after `then`.
    pub(super) fn new(work: W, then: N) -> (Self, oneshot::Receiver<Result<U, Error>>) {
        let (reply, answer) = oneshot::channel();
        let question = Self {
            work: Some(work),
            made: None,
            then,
            reply,
        };
        (question, answer)
    }
}

impl<W, T, N, U> Asked for Question<W, T, N, U>
where
    W: FnOnce(&Connection) -> Result<T, Error> + Send,
    T: Send,
    N: FnOnce(T) -> U + Send,
    U: Send,
{
    fn run(&mut self, conn: &Connection) -> Result<(), Error> {
        if let Some(work) = self.work.take() {
            self.made = Some(work(conn)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, ended: &Result<(), Error>) {
        let made = match ended {
            Ok(()) => self
                .made
                .map(self.then)
                .ok_or_else(|| Error::internal("the writer ended what it never began")),
            Err(error) => Err(error.repeat()),
        };
        // A dropped caller needs no result.
        let _ = self.reply.send(made);
    }
}

/// The state of the thread.
struct Thread {
    turns: Arc<Turns>,
    file: Arc<File>,
    disk: Arc<Disk>,
    inbox: Receiver<Item>,
    /// The runtime on which it waits for the turn.
    waits: Runtime,
    conn: Option<Connection>,
    /// Notified when it has ended.
    closing: Option<oneshot::Sender<()>>,
}

impl Thread {
    /// One shared transaction after the other, until nobody can ask any more.
    fn serve(mut self) {
        while self.closing.is_none()
            && let Ok(item) = self.inbox.recv()
        {
            let Some((first, since)) = self.work(item) else {
                break;
            };
            let mut asked = vec![first];
            match self.share(&mut asked, since) {
                Ok(()) => self.disk.after(|synced| answer(asked, synced)),
                Err(error) => {
                    self.conn = None; // and any transaction left open on it
                    answer(asked, &Err(error));
                }
            }
        }
        self.conn = None;
        if let Some(closed) = self.closing {
            let _ = closed.send(());
        }
    }

    fn work(&mut self, item: Item) -> Option<(Box<dyn Asked>, Instant)> {
        match item {
            Item::Work(work, since) => Some((work, since)),
            Item::Close(closed) => {
                self.closing = Some(closed);
                None
            }
        }
    }

    /// The next waiting request, unless it is the end.
    fn next(&mut self) -> Option<Box<dyn Asked>> {
        if self.closing.is_some() {
            return None;
        }
        let item = self.inbox.try_recv().ok()?;
        self.work(item).map(|(work, _)| work)
    }

    /// One transaction for the waiting requests, the first of which came at `since`, and for those
    /// that join it meanwhile.
    fn share(&mut self, asked: &mut Vec<Box<dyn Asked>>, since: Instant) -> Result<(), Error> {
        let seat = self.waits.block_on(self.turns.alone(since))?;
        self.file.is_still_there()?;
        let conn = if let Some(conn) = self.conn.take() {
            conn
        } else {
            let conn = open(self.file.path())?;
            self.file.is_still_there()?;
            conn
        };
        UNTIL.set(Some(seat.until()));
        let answer = conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
        UNTIL.set(None);
        answer.map_err(|error| self.refused(error))?;
        seat.opened();
        let began = Instant::now();
        let mut at = 0;
        while let Some(one) = asked.get_mut(at) {
            one.run(&conn)?;
            at += 1;
            if at == asked.len() && at < MOST && began.elapsed() < SHARED_FOR {
                asked.extend(self.next());
            }
        }
        fault::point!("batch.before_commit", blocking);
        conn.prepare_cached("COMMIT")?.execute([])?;
        self.conn = Some(conn);
        fault::point!("batch.after_commit", blocking);
        Ok(())
    }
}

impl Thread {
    /// The error for a refused BEGIN.
    fn refused(&self, error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => self.turns.stranger().caused_by(error),
            _ => error.into(),
        }
    }
}

fn answer(asked: Vec<Box<dyn Asked>>, ended: &Result<(), Error>) {
    for one in asked {
        one.answer(ended);
    }
}

thread_local! {
    /// Until when the BEGIN that runs on this thread waits for other processes.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Waits for another process's write in short steps, because most writes take a fraction of a
/// millisecond.
fn wait_for_others(waited: i32) -> bool {
    const SHORT: i32 = 200;
    let until = UNTIL.get();
    if until.is_none_or(|until| Instant::now() >= until) {
        return false;
    }
    std::thread::sleep(Duration::from_micros(if waited < SHORT {
        50
    } else {
        1_000
    }));
    true
}

/// A connection like the others on this file, but without foreign keys: inserted rows refer to rows
/// that were written or joined just before.
fn open(path: &Path) -> Result<Connection, Error> {
    let conn = existing(path)?;
    conn.busy_handler(Some(wait_for_others))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL;
         PRAGMA foreign_keys = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
         PRAGMA journal_size_limit = {JOURNAL_BYTES};"
    ))?;
    Ok(conn)
}
