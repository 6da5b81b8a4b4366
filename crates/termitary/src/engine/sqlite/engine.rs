//! The connections of one database file.

use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::commit_hook::CommitHook;
use super::connections::{Connections, Pooled};
use super::disk::Disk;
use super::file::{self, File};
use super::holder::{Caller, TurnWatch, WaitLimits};
use super::last_connection::LastConnection;
use super::startup::{READ_ONLY, primary_code};
use super::turns::Turns;
use super::writer::{ClosureRequest, Request, Writer};
use super::{transaction, wal_owner};
use crate::engine::{Conn, Reader};
use crate::error::{Error, Kind};

/// The longest wait of a statement for another process's write.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// An older database transaction takes no further turn, so that no commit waits long
/// for others. Unit tests share whatever can be shared, however slow the machine.
pub(super) const SHARED_FOR: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 2 });
/// The largest number of turns that share a database transaction.
pub(super) const MOST: usize = 512;
/// Connections for reads.
pub(crate) const READERS: usize = 8;
/// Connections for reads that may take seconds.
pub(crate) const LONG_READERS: usize = 2;
/// Pages of 4 KiB after which a commit copies the log back itself: more than
/// `checkpoints` lets it have.
pub(super) const CHECKPOINT_PAGES: &str = "16000";
/// Prepared statements that the connection for transactions keeps.
const STATEMENTS: usize = 256;
pub(super) const JOURNAL_BYTES: &str = "67108864";

/// A database file that is open.
///
/// SQLite takes one writer at a time, so users' transactions share one connection and
/// brokers' writes another, and all of them take turns in order, instead of meeting as
/// `SQLITE_BUSY`.
pub(crate) struct Engine {
    turns: Arc<Turns>,
    writer: Writer,
    readers: Arc<Connections>,
    long_readers: Arc<Connections>,
    /// The connection that renews leases.
    renewer: Arc<Connections>,
    file: Arc<File>,
    last: Arc<LastConnection>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Threads of the engine may know it for a moment longer: the file is there now.
        self.last.close();
    }
}

/// The choices of a program for its database.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Commits wait for the disk.
    pub(crate) durable: bool,
    pub(crate) limits: WaitLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            durable: true,
            limits: WaitLimits::DEFAULT,
        }
    }
}

impl Engine {
    /// Opens the file, creating it for its user alone. `hook` runs the last statements
    /// of transactions.
    pub(crate) async fn open(
        path: &Path,
        settings: Settings,
        hook: Arc<dyn CommitHook>,
    ) -> Result<Self, Error> {
        let synchronous = if settings.durable {
            SqliteSynchronous::Full
        } else {
            SqliteSynchronous::Normal
        };
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("journal_size_limit", JOURNAL_BYTES);
        wal_owner::refuse_a_foreign_log(path)?;
        // A turn waits for the disk after its commit, see `disk`.
        let write = connect
            .clone()
            .synchronous(SqliteSynchronous::Normal)
            // Publishing has one statement for each number of rows.
            .statement_cache_capacity(STATEMENTS)
            // The pages that a turn may have to restore are kept there. A file for them
            // costs as much as all else that a batch does.
            .pragma("temp_store", "MEMORY");
        file::make_private(path);
        let watch = Arc::new(TurnWatch::new(settings.limits));
        let conn = transaction::connect(&write, watch.activity())
            .await
            .map_err(|error| cannot_open(path, error))?;
        let file = Arc::new(File::of(path)?);
        let last = Arc::new(LastConnection::new(Arc::clone(&file))?);
        let disk = Arc::new(Disk::new(Arc::clone(&last), settings.durable));
        let turns = Turns::new(
            conn,
            write,
            watch,
            Arc::clone(&file),
            Arc::clone(&disk),
            hook,
        );
        let read = connect.clone().pragma("query_only", "1");
        Ok(Self {
            writer: Writer::new(Arc::clone(&turns), Arc::clone(&file), disk),
            turns,
            readers: Connections::new(read.clone(), Arc::clone(&file), READERS),
            long_readers: Connections::new(read, Arc::clone(&file), LONG_READERS),
            renewer: Connections::new(connect, Arc::clone(&file), 1),
            file,
            last,
        })
    }

    /// Begins a write transaction for the code at `place`.
    pub(crate) async fn begin(&self, place: &'static Location<'static>) -> Result<Conn, Error> {
        self.turns.begin(Caller::begins(place)).await
    }

    /// A connection that can only read.
    pub(crate) async fn read(&self) -> Result<Reader, Error> {
        self.readers.read().await
    }

    /// A connection that can only read, for reads that may take seconds.
    pub(crate) async fn read_long(&self) -> Result<Reader, Error> {
        self.long_readers.read().await
    }

    /// The connection for lease renewal, which never waits behind a handler.
    pub(crate) async fn renewer(&self) -> Result<Pooled, Error> {
        self.renewer.get().await
    }

    /// The database file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns an error if the database file or its log was removed or replaced.
    pub(crate) fn is_in_place(&self) -> Result<(), Error> {
        self.file.is_still_there()
    }

    /// Closes every connection; the last one tidies the write-ahead log.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.long_readers.close().await;
        self.renewer.close_idle().await;
        self.writer.close().await;
        self.turns.close().await;
        // This may copy the log to the database.
        let last = Arc::clone(&self.last);
        if tokio::task::spawn_blocking(move || last.close())
            .await
            .is_err()
        {
            self.last.close();
        }
    }

    /// Returns an error if the calling task has a transaction open and would wait for
    /// itself if it wrote outside of it.
    pub(crate) async fn unless_own(&self) -> Result<(), Error> {
        self.turns.unless_own().await
    }

    /// Ends a transaction of this process that stands still.
    pub(crate) fn look_at_turn(&self) {
        self.turns.look();
    }

    /// The longest wait of a write for its turn.
    pub(crate) fn patience(&self) -> Duration {
        self.turns.patience()
    }

    /// Runs `request` on the writing thread. Its wait counts from `since`.
    pub(crate) fn request(&self, request: Box<dyn Request>, since: Instant) {
        self.writer.request(request, since);
    }

    /// Runs `work` on the writing thread, in a transaction that it shares with other
    /// requests, then `then` on its result once that is real, and returns that. The
    /// work is done even if the caller stops waiting.
    pub(crate) async fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, Error> {
        let (request, reply) = ClosureRequest::new(work, then);
        self.request(Box::new(request), Instant::now());
        reply
            .await
            .map_err(|_| Error::internal("the thread that writes is gone"))?
    }

    /// Returns once everything that can be read now is on the disk.
    pub(crate) async fn on_disk(&self) -> Result<(), Error> {
        self.turns.on_disk().await
    }

    /// Returns whether nobody writes.
    #[cfg(test)]
    pub(crate) fn at_rest(&self) -> bool {
        self.turns.at_rest()
    }

    /// Returns whether nobody writes, reads or renews leases.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.at_rest() && self.readers.at_rest() && self.renewer.at_rest()
    }

    /// The number of callers that wait to write.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.turns.waiting()
    }
}

fn cannot_open(path: &Path, error: sqlx::Error) -> Error {
    /// `SQLITE_BUSY`, `_LOCKED`, `_NOMEM`, `_IOERR`, `_FULL`.
    const PASSING: [i32; 5] = [5, 6, 7, 10, 13];
    const NOT_A_DATABASE: i32 = 26;
    let code = primary_code(&error);
    if code == Some(READ_ONLY) {
        return error.into();
    }
    let passes = code.is_none_or(|code| PASSING.contains(&code));
    let advice = if path.is_dir() {
        "it is a folder: name a file in it"
    } else if code == Some(NOT_A_DATABASE) {
        "it is no SQLite database: name another file"
    } else {
        "check that its folder exists and that this user may write there"
    };
    Error::new(
        if passes {
            Kind::Unavailable
        } else {
            Kind::Invalid
        },
        format!("cannot open the database file {}: {advice}", path.display()),
    )
    .caused_by(error)
}
