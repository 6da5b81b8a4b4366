//! The handle to a database with a ledger.

use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use super::carrier::{Carrier, Publisher};
use super::{Tx, schema};
use crate::clock::Clock;
use crate::draft::Source;
use crate::error::Error;
use crate::sqlite::{
    AT_START, Engine, Pooled, Reader, Request, Settings, path_of, until_unlocked, writable,
};

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    engine: Engine,
    clock: Clock,
    publisher: Arc<Publisher>,
    /// The identity of the ledger, set once the file is open.
    ledger: OnceLock<Uuid>,
    /// Notified after a commit that published, so that nobody polls for it.
    published: Notify,
    /// The folder of a test's file, kept as long as the file may be read.
    #[cfg(feature = "testing")]
    _folder: Option<Arc<tempfile::TempDir>>,
}

/// The options of [`Db::open_with`].
pub struct Options {
    clock: Clock,
    source: String,
    pub(crate) settings: Settings,
    #[cfg(feature = "testing")]
    folder: Option<Arc<tempfile::TempDir>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            source: "/termitary/app".to_owned(),
            settings: Settings::default(),
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

    /// A folder that is removed with the last handle to this database.
    #[cfg(feature = "testing")]
    pub(crate) fn within(mut self, folder: tempfile::TempDir) -> Self {
        self.folder = Some(Arc::new(folder));
        self
    }

    /// Sets whether a commit waits for the disk before it is confirmed (the default).
    /// Without it a power cut can lose the last commits; a crash of the process
    /// cannot.
    pub fn durable(mut self, durable: bool) -> Self {
        self.settings.durable = durable;
        self
    }
}

impl Db {
    /// Opens `sqlite://path`. Creates the file, for its user alone, and the ledger's
    /// tables if they are missing. Waits up to a minute for a write lock of another
    /// process.
    ///
    /// # Errors
    ///
    /// `is_invalid()` if the URL, the folder or the file is wrong;
    /// `is_newer_schema()` if a newer version of this crate wrote the file;
    /// `is_unavailable()` if a retry may help.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_with(url, Options::default()).await
    }

    /// [`Db::open`] with options.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::open`].
    pub async fn open_with(url: &str, options: Options) -> Result<Self, Error> {
        let path = path_of(url)?;
        until_unlocked(&path, AT_START, || async {
            let db = Self::connect(&path, &options).await?;
            schema::migrate(&db).await?;
            let _ = db.0.ledger.set(schema::identity(&db).await?); // set once
            Ok(db)
        })
        .await
        .map_err(|error| writable(&path, error))
    }

    async fn connect(path: &Path, options: &Options) -> Result<Self, Error> {
        let publisher = Arc::new(Publisher::new(options.source.clone()));
        let engine = Engine::open(path, options.settings, Arc::clone(&publisher) as _).await?;
        Ok(Self(Arc::new(Inner {
            engine,
            clock: options.clock.clone(),
            publisher,
            ledger: OnceLock::new(),
            published: Notify::new(),
            #[cfg(feature = "testing")]
            _folder: options.folder.clone(),
        })))
    }

    /// Begins a write transaction. Until it ends, the pages that it changes are kept in
    /// memory as they were: split a change of gigabytes into several transactions.
    ///
    /// SQLite takes one writer at a time. This waits for the turn to write for up to
    /// five seconds. A transaction that runs no statement for three seconds, while
    /// others wait or beside a worker, is ended and rolled back: its next statement and
    /// its commit return an error.
    ///
    /// Cancelling this future is safe: the transaction is rolled back.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the turn did not come in time; the message names the
    /// holder of the turn, and since when. `is_invalid()` if the calling task has a
    /// transaction open itself and does nothing with it: it would wait for itself.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Tx, Error>> + Send {
        self.begin_at(Location::caller())
    }

    /// [`Db::begin`] for the code at `place`.
    pub(crate) async fn begin_at(&self, place: &'static Location<'static>) -> Result<Tx, Error> {
        let conn = self.0.engine.begin(place).await?;
        Ok(Tx::new(conn, self.clone()))
    }

    /// [`Db::begin`] for the start of a process, such as its migrations: waits for a
    /// write lock of another process up to a minute instead of five seconds, and logs
    /// that once.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::begin`].
    pub async fn begin_at_start(&self) -> Result<Tx, Error> {
        until_unlocked(self.path(), AT_START, || self.begin()).await
    }

    /// A connection that can only read. Up to eight are in use at a time; a further
    /// caller waits for one, up to 30 s.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if no connection became free in time, or the database is
    /// closed.
    pub async fn read(&self) -> Result<Reader, Error> {
        self.0.engine.read().await
    }

    /// A connection that can only read, of two kept apart from [`Db::read`] for reads
    /// that may take seconds, such as a search: these wait for each other, and nobody
    /// else waits for them.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::read`].
    pub async fn read_long(&self) -> Result<Reader, Error> {
        self.0.engine.read_long().await
    }

    /// Returns whether the ledger's tables still have the version of this program. A newer
    /// program that started in the meantime has changed them.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the database cannot be read.
    pub async fn is_current(&self) -> Result<bool, Error> {
        schema::is_current(self).await
    }

    /// The clock that this database and everything on it uses.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The publishing service, as events carry it.
    pub fn source(&self) -> &str {
        self.0.publisher.source()
    }

    /// The clock and the service, for a draft.
    pub(crate) fn as_source(&self) -> Source<'_> {
        Source {
            clock: self.clock(),
            name: self.source(),
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.0.engine.path()
    }

    /// Closes every connection; the last one tidies the write-ahead log.
    pub async fn close(&self) {
        self.0.publisher.close().await;
        self.0.engine.close().await;
    }

    /// Returns an error if the database file, or the write-ahead log beside it, was
    /// removed or replaced: every write is refused then. Costs one system call.
    ///
    /// # Errors
    ///
    /// `is_unavailable()`, with the way out.
    pub fn is_in_place(&self) -> Result<(), Error> {
        self.0.engine.is_in_place()
    }

    /// Returns an error if the calling task has a transaction open and would wait for
    /// itself if it wrote outside of it.
    pub(crate) async fn unless_own(&self) -> Result<(), Error> {
        self.0.engine.unless_own().await
    }

    /// Ends a transaction of this process that stands still.
    pub(crate) fn look_at_turn(&self) {
        self.0.engine.look_at_turn();
    }

    /// Runs `work` on the writing thread, in a transaction that it shares with other
    /// requests, and returns its result once that is real. The work is done even if
    /// the caller stops waiting.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_then(work, |made| made).await
    }

    /// [`Db::write`], with `then` run on the result once it is real and before the
    /// caller has it.
    pub(crate) async fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, Error> {
        self.0.engine.write_then(work, then).await
    }

    /// Runs `request` on the writing thread.
    pub(crate) fn request(&self, request: Box<dyn Request>) {
        self.request_since(request, Instant::now());
    }

    /// [`Db::request`], with its wait counted from `since`.
    pub(crate) fn request_since(&self, request: Box<dyn Request>, since: Instant) {
        self.0.engine.request(request, since);
    }

    /// The longest wait of a write for its turn.
    pub(crate) fn patience(&self) -> Duration {
        self.0.engine.patience()
    }

    /// The connection for lease renewal, which never waits behind a handler.
    pub(crate) async fn renewer(&self) -> Result<Pooled, Error> {
        self.0.engine.renewer().await
    }

    /// Notified after each commit of this process that published events.
    pub(crate) fn published(&self) -> &Notify {
        &self.0.published
    }

    /// Returns once everything that can be read now is on the disk: needed before
    /// something outside is ended because of it.
    pub(crate) async fn on_disk(&self) -> Result<(), Error> {
        self.0.engine.on_disk().await
    }

    /// The identity of the ledger in this file, the same for every process.
    pub(crate) fn ledger(&self) -> Uuid {
        self.0.ledger.get().copied().unwrap_or_default()
    }

    /// Hands committed events to `carrier` from now on.
    pub(crate) fn carried_by(&self, carrier: std::sync::Weak<dyn Carrier>) {
        self.0.publisher.set_carrier(carrier);
    }

    /// Returns whether nobody writes.
    #[cfg(test)]
    pub(crate) fn at_rest(&self) -> bool {
        self.0.engine.at_rest()
    }

    /// Returns whether nobody writes, reads or renews leases.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.0.engine.is_unused()
    }

    /// The number of callers that wait to write.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.engine.waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
