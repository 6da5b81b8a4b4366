//! The thread that runs the write requests of brokers. Requests that arrive while one
//! transaction runs share the next one, which begins while the disk takes the last.
//!
//! It writes on a connection of its own, without a hop to another thread for each
//! statement, which would cost more than most statements do (decision 0006). Within the
//! process the connection slot of `turns` keeps it apart from the transactions of
//! users; it waits for other processes in short steps.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::engine::{CHECKPOINT_PAGES, JOURNAL_BYTES, MOST, SHARED_FOR};
use super::file::{File, existing};
use super::turns::Turns;
use crate::error::Error;
use crate::fault;

/// Statements are prepared once; there are fewer different ones than this.
const STATEMENTS: usize = 64;

/// A write, and its reply.
pub(crate) trait Request: Send {
    /// Runs within a transaction that other requests share: an error undoes all of it.
    fn run(&mut self, conn: &Connection) -> Result<(), Error>;
    /// Called once the work is real, or was undone.
    fn reply(self: Box<Self>, ended: &Result<(), Error>);
}

enum Item {
    /// A request, and when its wait began.
    Work(Box<dyn Request>, Instant),
    /// The last item: no more work is taken.
    Close(oneshot::Sender<()>),
}

/// Sends requests to the thread, which starts with the first one and ends with this.
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

    /// Runs the request in a transaction with the others that wait now, then calls its
    /// `reply`. Its wait for the turn counts from `since`.
    pub(super) fn request(&self, request: Box<dyn Request>, since: Instant) {
        let item = Item::Work(request, since);
        if let Err(mpsc::SendError(Item::Work(request, _))) = self.inbox().send(item) {
            request.reply(&Err(sqlx::Error::PoolClosed.into()));
        }
    }

    /// Runs the requests that came before, and none after.
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

/// A closure as a request: its work, the result, and the caller that waits for it.
pub(super) struct ClosureRequest<W, T, N, U> {
    work: Option<W>,
    made: Option<T>,
    then: N,
    reply: oneshot::Sender<Result<U, Error>>,
}

impl<W, T, N, U> ClosureRequest<W, T, N, U> {
    /// Runs `work`, then replies with `then` of its result.
    pub(super) fn new(work: W, then: N) -> (Self, oneshot::Receiver<Result<U, Error>>) {
        let (reply, receiver) = oneshot::channel();
        let request = Self {
            work: Some(work),
            made: None,
            then,
            reply,
        };
        (request, receiver)
    }
}

impl<W, T, N, U> Request for ClosureRequest<W, T, N, U>
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

    fn reply(self: Box<Self>, ended: &Result<(), Error>) {
        let made = match ended {
            Ok(()) => self
                .made
                .map(self.then)
                .ok_or_else(|| Error::internal("the writer ended a request that it never ran")),
            Err(error) => Err(error.repeat()),
        };
        // A caller that stopped waiting needs no reply.
        let _ = self.reply.send(made);
    }
}

/// The state of the thread.
struct Thread {
    turns: Arc<Turns>,
    file: Arc<File>,
    disk: Arc<Disk>,
    inbox: Receiver<Item>,
    /// The runtime on which it waits for the connection slot.
    waits: Runtime,
    conn: Option<Connection>,
    /// The caller that waits for the end of the thread.
    closing: Option<oneshot::Sender<()>>,
}

impl Thread {
    /// Runs one shared transaction after the other until no request can come.
    fn serve(mut self) {
        while self.closing.is_none()
            && let Ok(item) = self.inbox.recv()
        {
            let Some((first, since)) = self.work(item) else {
                break;
            };
            let mut requests = vec![first];
            match self.share(&mut requests, since) {
                Ok(()) => self.disk.after(|synced| reply(requests, synced)),
                Err(error) => {
                    self.conn = None; // with the transaction that is open on it
                    reply(requests, &Err(error));
                }
            }
        }
        self.conn = None;
        if let Some(closed) = self.closing {
            let _ = closed.send(());
        }
    }

    fn work(&mut self, item: Item) -> Option<(Box<dyn Request>, Instant)> {
        match item {
            Item::Work(work, since) => Some((work, since)),
            Item::Close(closed) => {
                self.closing = Some(closed);
                None
            }
        }
    }

    /// The next request that waits now, unless the thread is to end.
    fn next(&mut self) -> Option<Box<dyn Request>> {
        if self.closing.is_some() {
            return None;
        }
        let item = self.inbox.try_recv().ok()?;
        self.work(item).map(|(work, _)| work)
    }

    /// Runs one transaction for the requests, the first of which waits since `since`,
    /// and for those that join it meanwhile.
    fn share(&mut self, requests: &mut Vec<Box<dyn Request>>, since: Instant) -> Result<(), Error> {
        let slot = self.waits.block_on(self.turns.alone(since))?;
        self.file.is_still_there()?;
        let conn = if let Some(conn) = self.conn.take() {
            conn
        } else {
            let conn = open(self.file.path())?;
            self.file.is_still_there()?;
            conn
        };
        UNTIL.set(Some(slot.until()));
        let began = conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
        UNTIL.set(None);
        began.map_err(|error| self.refused(error))?;
        slot.opened();
        let began = Instant::now();
        let mut at = 0;
        while let Some(one) = requests.get_mut(at) {
            one.run(&conn)?;
            at += 1;
            if at == requests.len() && at < MOST && began.elapsed() < SHARED_FOR {
                requests.extend(self.next());
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
    /// The error of a refused BEGIN.
    fn refused(&self, error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => {
                self.turns.locked_elsewhere().caused_by(error)
            }
            _ => error.into(),
        }
    }
}

fn reply(requests: Vec<Box<dyn Request>>, ended: &Result<(), Error>) {
    for one in requests {
        one.reply(ended);
    }
}

thread_local! {
    /// The deadline of the BEGIN that runs on this thread.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Waits for another process's write, in short steps: most writes take a fraction of a
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

/// Opens a connection like the others on this file, but without foreign keys: rows that
/// are inserted here refer to rows that were written or joined just before.
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
