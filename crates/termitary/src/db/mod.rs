//! The database: one writer, several readers, and the transaction in which
//! rows and events become real together.

mod anchor;
mod carrier;
mod checkpoints;
mod conn;
mod connections;
mod disk;
mod file;
#[cfg(test)]
mod file_tests;
mod hold;
#[cfg(test)]
mod hold_tests;
mod locks;
mod log_owner;
mod open;
mod patience;
mod schema;
mod slot;
mod turns;
#[cfg(test)]
mod turns_tests;
mod tx;
mod writer;

use std::future::Future;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::Clock;
use crate::draft::Source;
use crate::error::{Error, Kind};

use anchor::Anchor;
use disk::Disk;
use file::File;
use hold::{Holds, Patience, Who};
pub(crate) use open::nothing_lost;
pub(crate) use patience::writable;
use patience::{AT_START, READ_ONLY, primary_code, until_unlocked};

use connections::{Connections, Pooled};
use turns::Turns;
use writer::{Question, Writer};

pub(crate) use carrier::{Cargo, Carrier, Trust};
pub(crate) use writer::Asked;

pub use conn::{Conn, SqliteGuard};
pub use connections::Reader;
pub use tx::Tx;

/// Longest wait of a statement for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Age at which a database transaction accepts no more members, so that no commit waits long for
/// others. Unit tests share all that they can, however slow the machine.
const SHARED_FOR: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 2 });
/// Nor one that so many share.
const MOST: usize = 512;
pub(crate) const READERS: usize = 8;
/// Connections for reads that may take seconds.
const LONG_READERS: usize = 2;
/// Pages of 4 KiB after which a commit copies the log back itself: more than
/// `checkpoints` lets it have.
const CHECKPOINT_PAGES: &str = "16000";
/// A connection that writes remembers so many.
const STATEMENTS: usize = 256;
const JOURNAL_BYTES: &str = "67108864";

/// A handle to the database; cheap to clone.
///
/// SQLite takes one writer at a time, so users' transactions share one connection,
/// brokers' writes another, and all take turns in order, instead of meeting as
/// `SQLITE_BUSY`.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    turns: Arc<Turns>,
    writer: Writer,
    readers: Arc<Connections>,
    long_readers: Arc<Connections>,
    /// The connection that renews leases.
    renewer: Arc<Connections>,
    clock: Clock,
    source: String,
    file: Arc<File>,
    anchor: Arc<Anchor>,
    /// Which ledger it is; set when the file is open.
    ledger: OnceLock<Uuid>,
    /// Rung after a commit that published, so that nobody polls for it.
    published: Notify,
    /// The folder of a test's file, kept as long as it may be read.
    #[cfg(feature = "testing")]
    _folder: Option<Arc<tempfile::TempDir>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Threads of ours may know it for a moment longer: the file is there now.
        self.anchor.close();
    }
}

/// Options for opening a [`Db`].
pub struct Options {
    clock: Clock,
    source: String,
    durable: bool,
    patience: Patience,
    #[cfg(feature = "testing")]
    folder: Option<Arc<tempfile::TempDir>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            source: "/termitary/app".to_owned(),
            durable: true,
            patience: Patience::DEFAULT,
            #[cfg(feature = "testing")]
            folder: None,
        }
    }
}

impl Options {
    /// The clock that everything built on this database uses.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The publishing service's name; events carry `/termitary/<service>`.
    pub fn service(mut self, service: &str) -> Self {
        self.source = format!("/termitary/{service}");
        self
    }

    /// The folder that goes when the last handle to this database does.
    #[cfg(feature = "testing")]
    pub(crate) fn within(mut self, folder: tempfile::TempDir) -> Self {
        self.folder = Some(Arc::new(folder));
        self
    }

    /// Sets whether a commit waits for the disk before it is confirmed (the default). Without it a
    /// power cut can lose the last commits; a crash of the process cannot.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }
}

impl Db {
    /// Opens `sqlite://path`, creating the file, for its user alone, and the
    /// ledger's tables where they are missing. A write lock of another process is waited for, up to
    /// a minute.
    ///
    /// An error is invalid where the URL, the folder or the file is wrong, of a
    /// newer schema, or unavailable where trying again can help.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_with(url, Options::default()).await
    }

    /// [`Db::open`] with options.
    pub async fn open_with(url: &str, options: Options) -> Result<Self, Error> {
        let path = sqlite_path(url)?;
        until_unlocked(&path, AT_START, || async {
            let db = Self::connect(&path, &options).await?;
            schema::migrate(&db).await?;
            let _ = db.0.ledger.set(schema::ledger(&db).await?);
            Ok(db)
        })
        .await
        .map_err(|error| writable(&path, error))
    }

    async fn connect(path: &Path, options: &Options) -> Result<Self, Error> {
        let synchronous = if options.durable {
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
        log_owner::refuse_a_strangers_log(path)?;
        // Turns wait for the disk after their commit, see `disk`.
        let write = connect
            .clone()
            .synchronous(SqliteSynchronous::Normal)
            // Publishing has one statement for each number of rows.
            .statement_cache_capacity(STATEMENTS)
            // The undo data of a turn is kept there, page by page: a file for it costs as much as
            // everything else in a batch.
            .pragma("temp_store", "MEMORY");
        file::make_private(path);
        let holds = Arc::new(Holds::new(options.patience));
        let writer = open::connect(&write, holds.activity())
            .await
            .map_err(|error| cannot_open(path, error))?;
        let file = Arc::new(File::of(path)?);
        let anchor = Arc::new(Anchor::new(Arc::clone(&file))?);
        let disk = Arc::new(Disk::new(Arc::clone(&anchor), options.durable));
        let turns = Turns::new(
            writer,
            write,
            holds,
            Arc::clone(&file),
            Arc::clone(&disk),
            options.source.clone(),
        );
        let read = connect.clone().pragma("query_only", "1");
        Ok(Self(Arc::new(Inner {
            writer: Writer::new(Arc::clone(&turns), Arc::clone(&file), disk),
            turns,
            readers: Connections::new(read.clone(), Arc::clone(&file), READERS),
            long_readers: Connections::new(read, Arc::clone(&file), LONG_READERS),
            renewer: Connections::new(connect, Arc::clone(&file), 1),
            file,
            anchor,
            clock: options.clock.clone(),
            source: options.source.clone(),
            ledger: OnceLock::new(),
            published: Notify::new(),
            #[cfg(feature = "testing")]
            _folder: options.folder.clone(),
        })))
    }

    /// Begins a write transaction. The pages that it changes are kept in memory as
    /// they were, until it ends: change gigabytes in several.
    ///
    /// SQLite takes one writer at a time: the turn to write is waited for up to
    /// five seconds. A transaction that runs no statement for three seconds, while
    /// others wait or beside a worker, is ended: its commit is then an error, and
    /// changes nothing.
    ///
    /// Cancelling this future is safe: the transaction is rolled back.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the turn did not come in time; the message names the holder and its
    /// start. `is_invalid()` if the calling task itself has an idle transaction open: it would wait
    /// for itself.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Tx, Error>> + Send {
        self.begin_at(Location::caller())
    }

    /// [`Db::begin`] for the code at `place`.
    pub(crate) async fn begin_at(&self, place: &'static Location<'static>) -> Result<Tx, Error> {
        let turn = self.0.turns.begin(Who::begins(place)).await?;
        Ok(Tx::new(turn, self.clone()))
    }

    /// Like [`Db::begin`], for work at the start of a process, such as migrations: it waits for a
    /// write lock of another process for up to a minute instead of five seconds, and logs one line.
    pub async fn begin_at_start(&self) -> Result<Tx, Error> {
        until_unlocked(self.path(), AT_START, || self.begin()).await
    }

    /// A connection that can only read. Up to eight are in use at a time; a ninth
    /// caller waits for one, up to 30 s.
    pub async fn read(&self) -> Result<Reader, Error> {
        self.0.readers.read().await
    }

    /// A connection that can only read, of two kept apart from [`Db::read`] for reads
    /// that may take seconds, such as a search: these wait for each other, and nobody
    /// else waits for them.
    pub async fn read_long(&self) -> Result<Reader, Error> {
        self.0.long_readers.read().await
    }

    /// Returns whether the ledger's tables still have the version of this program. A newer program
    /// that started in the meantime has changed them.
    pub async fn is_current(&self) -> Result<bool, Error> {
        schema::is_current(self).await
    }

    /// The clock that this database and everything on it uses.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The publishing service, as events carry it.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    pub(crate) fn as_source(&self) -> Source<'_> {
        Source {
            clock: self.clock(),
            name: self.source(),
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Closes every connection; the last writer tidies the write-ahead log.
    pub async fn close(&self) {
        if let Some(carrier) = self.0.turns.take_carrier() {
            carrier.rest().await;
        }
        self.0.readers.close().await;
        self.0.long_readers.close().await;
        self.0.renewer.close_idle().await;
        self.0.writer.close().await;
        self.0.turns.close().await;
        // The last of all. It may copy the log to the database.
        let anchor = Arc::clone(&self.0.anchor);
        if tokio::task::spawn_blocking(move || anchor.close())
            .await
            .is_err()
        {
            self.0.anchor.close();
        }
    }

    /// Returns an error while the database file, or the write-ahead log beside it,
    /// was removed or replaced: every write is refused then. One system call.
    pub fn is_in_place(&self) -> Result<(), Error> {
        self.0.file.is_still_there()
    }

    /// An error where the calling task has a transaction open, and would wait for
    /// itself if it wrote outside of it.
    pub(crate) async fn unless_own(&self) -> Result<(), Error> {
        self.0.turns.unless_own().await
    }

    /// Ends a transaction of this process that does nothing, if this is called now
    /// and then.
    pub(crate) fn look_at_turn(&self) {
        self.0.turns.look();
    }

    /// Runs `work` on the writing thread, in a transaction shared with other waiting work, and
    /// returns its result once the commit is real. The work is done even if the caller is dropped.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_then(work, |made| made).await
    }

    /// Like [`Db::write`], for work that delivers its own result.
    pub(crate) fn ask(&self, asked: Box<dyn Asked>) {
        self.ask_since(asked, std::time::Instant::now());
    }

    /// Like [`Db::ask`], for work that began to wait at `since`.
    pub(crate) fn ask_since(&self, asked: Box<dyn Asked>, since: std::time::Instant) {
        self.0.writer.ask(asked, since);
    }

    /// Longest wait for a turn to write.
    pub(crate) fn patience(&self) -> Duration {
        self.0.turns.patience()
    }

    /// Like [`Db::write`], and applies `then` to the result once it is real, before the caller gets
    /// it.
    pub(crate) async fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, Error> {
        let (question, answer) = Question::new(work, then);
        self.ask(Box::new(question));
        answer
            .await
            .map_err(|_| Error::internal("the thread that writes is gone"))?
    }

    /// Nobody writes.
    #[cfg(test)]
    pub(crate) fn at_rest(&self) -> bool {
        self.0.turns.at_rest()
    }

    /// Nobody writes, reads or renews leases.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.at_rest() && self.0.readers.at_rest() && self.0.renewer.at_rest()
    }

    /// Number of waiting writers.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.turns.waiting()
    }

    /// Returns when everything that can be read by now is on disk, for decisions about the outside
    /// world that depend on it.
    pub(crate) async fn on_disk(&self) -> Result<(), Error> {
        self.0.turns.on_disk().await
    }

    /// The id of this ledger: it belongs to its file, and is the same in every process.
    pub(crate) fn ledger(&self) -> Uuid {
        self.0.ledger.get().copied().unwrap_or_default()
    }

    /// Sets the carrier of events committed from now on.
    pub(crate) fn carried_by(&self, carrier: std::sync::Weak<dyn Carrier>) {
        self.0.turns.set_carrier(carrier);
    }

    /// A connection that only lease renewal uses: never behind a handler.
    pub(crate) async fn renewer(&self) -> Result<Pooled, Error> {
        self.0.renewer.get().await
    }

    /// Rung after each commit of this process that published events.
    pub(crate) fn published(&self) -> &Notify {
        &self.0.published
    }
}

/// The file that a `sqlite:` URL names.
fn sqlite_path(url: &str) -> Result<PathBuf, Error> {
    let rest = url
        .strip_prefix("sqlite://")
        .or_else(|| url.strip_prefix("sqlite:"))
        .ok_or_else(|| {
            let scheme = url.split(':').next().unwrap_or_default();
            Error::invalid(format!(
                "the database URL begins with `{scheme}:`, but this version opens `sqlite://path/to/file.db` only"
            ))
        })?;
    let path = rest.split('?').next().unwrap_or_default();
    if path.is_empty() || path.contains(":memory:") {
        return Err(Error::invalid(
            "the database URL names no file: write `sqlite://path/to/file.db` (a database in memory would lose every event)",
        ));
    }
    Ok(PathBuf::from(path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_or_says_what_is_wrong() {
        let path = |url| sqlite_path(url).map(|path| path.display().to_string());
        assert_eq!(
            path("sqlite://termitary.db").ok().as_deref(),
            Some("termitary.db")
        );
        assert_eq!(
            path("sqlite:///var/lib/t.db?mode=rwc").ok().as_deref(),
            Some("/var/lib/t.db")
        );
        assert!(path("postgres://u:secret@h/db").is_err_and(|e| !e.to_string().contains("secret")));
        assert!(path("sqlite::memory:").is_err_and(|e| e.is_invalid()));
    }

    #[cfg(unix)]
    #[tokio::test]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    async fn a_new_database_is_for_its_user_alone_and_an_old_one_stays_as_it_was() {
        use std::fs::{Permissions, metadata, set_permissions};
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let file = |end: &str| folder.path().join(format!("new.db{end}"));
        let mode = |end: &str| metadata(file(end)).unwrap().permissions().mode() & 0o777;
        let url = format!("sqlite://{}", file("").display());
        let db = Db::open(&url).await.unwrap();
        assert_eq!(["", "-wal", "-shm"].map(mode), [0o600; 3]);
        db.close().await;
        set_permissions(file(""), Permissions::from_mode(0o660)).unwrap();
        let db = Db::open(&url).await.unwrap();
        assert_eq!(["", "-wal"].map(mode), [0o660; 2]);
        db.close().await;
    }

    #[tokio::test]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    async fn what_is_no_database_is_told_with_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("letter.txt");
        std::fs::write(&file, "Dear all, ".repeat(100)).unwrap();
        for (path, what) in [
            (folder.path(), "is a folder"),
            (&file, "no SQLite database"),
        ] {
            let refused = Db::open(&format!("sqlite://{}", path.display())).await;
            let refused = refused.err().unwrap();
            assert!(refused.is_invalid(), "{refused:?}");
            assert!(refused.to_string().contains(what), "{refused}");
        }
        assert_eq!(std::fs::read(&file).unwrap().len(), 1_000);
    }
}
