//! The handle to a database with a ledger.

use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use super::Tx;
use super::carrier::{Carrier, Publisher};
use super::schema::{self, Migration};
use crate::clock::Clock;
use crate::draft::Source;
#[cfg(feature = "postgres")]
use crate::engine::postgres;
use crate::engine::sqlite::{AT_START, Request, Settings, path_of, until_unlocked, writable};
use crate::engine::{Conn, Dialect, Engine, Home, Reader, sqlite};
use crate::error::Error;

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
    published: Arc<Notify>,
    /// The home of a test's database, kept as long as that may be read.
    #[cfg(feature = "testing")]
    _home: Option<TestHome>,
}

/// The folder or the server of a test's database.
#[cfg(feature = "testing")]
type TestHome = Arc<dyn std::any::Any + Send + Sync>;

/// The options of [`Db::open_with`].
pub struct Options {
    clock: Clock,
    source: String,
    /// The tables stay as they are.
    as_found: bool,
    pub(crate) settings: Settings,
    #[cfg(feature = "postgres")]
    postgres: postgres::Settings,
    #[cfg(feature = "testing")]
    home: Option<TestHome>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            source: "/termitary/app".to_owned(),
            as_found: false,
            settings: Settings::default(),
            #[cfg(feature = "postgres")]
            postgres: postgres::Settings::default(),
            #[cfg(feature = "testing")]
            home: None,
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

    /// Opens the ledger as it is: no table is made or changed. An operator's look at the
    /// database of a program of another version changes nothing in it.
    /// [`Db::is_current`] returns whether the tables are those of this version; nothing
    /// else works if they are not.
    pub fn as_found(mut self) -> Self {
        self.as_found = true;
        self
    }

    /// The home of the database, which is dropped with the last handle to it.
    #[cfg(feature = "testing")]
    pub(crate) fn within(mut self, home: impl std::any::Any + Send + Sync) -> Self {
        self.home = Some(Arc::new(home));
        self
    }

    /// Sets whether a commit waits for the disk before it is confirmed (the default).
    /// Without it a power cut can lose the last commits; a crash of the process
    /// cannot.
    pub fn durable(mut self, durable: bool) -> Self {
        self.settings.durable = durable;
        #[cfg(feature = "postgres")]
        {
            self.postgres.durable = durable;
        }
        self
    }

    /// The schema of the ledger on PostgreSQL. It is then the first one in the search
    /// path of connections, so that the tables of the program are made there, too: this
    /// keeps several programs in one database apart. Without it the ledger is in the
    /// schema `termitary`, and the search path stays that of the server.
    #[cfg(feature = "postgres")]
    pub fn schema(mut self, schema: &str) -> Self {
        self.postgres.schema = Some(schema.to_owned());
        self
    }
}

impl Db {
    /// Opens `sqlite://path` or, with the feature `postgres`,
    /// `postgres://user:password@host/database`. Creates the ledger's tables if they are
    /// missing, and the SQLite file, for its user alone. Waits up to a minute for a write
    /// lock of another process on the file.
    ///
    /// # Errors
    ///
    /// `is_invalid()` if the URL, the folder or the file is wrong, or the server refuses
    /// the user or the database;
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
        if is_postgres(url) {
            #[cfg(feature = "postgres")]
            return Box::pin(Self::open_postgres(url, options)).await;
            #[cfg(not(feature = "postgres"))]
            return Err(without_postgres());
        }
        let path = path_of(url)?;
        // Boxed: it is a part of every program's first future.
        Box::pin(until_unlocked(&path, AT_START, || async {
            let publisher = Arc::new(Publisher::new(options.source.clone()));
            let hook = Arc::clone(&publisher) as _;
            let engine = sqlite::Engine::open(&path, options.settings, hook).await?;
            Self::over(Engine::Sqlite(engine), publisher, &options).await
        }))
        .await
        .map_err(|error| writable(&path, error))
    }

    #[cfg(feature = "postgres")]
    async fn open_postgres(url: &str, options: Options) -> Result<Self, Error> {
        let engine = Self::postgres_engine(url, &options).await?;
        let publisher = Arc::new(Publisher::new(options.source.clone()));
        Self::over(engine, publisher, &options).await
    }

    #[cfg(feature = "postgres")]
    async fn postgres_engine(url: &str, options: &Options) -> Result<Engine, Error> {
        let engine = postgres::Engine::open(url, &options.postgres).await?;
        Ok(Engine::Postgres(Box::new(engine)))
    }

    #[cfg(not(feature = "postgres"))]
    fn postgres_engine(
        _url: &str,
        _options: &Options,
    ) -> impl Future<Output = Result<Engine, Error>> {
        std::future::ready(Err(without_postgres()))
    }

    /// Opens the ledger in the database of a pool. The pool serves [`Db::begin`];
    /// brokers and reads have connections of their own with the same options.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::open`].
    #[cfg(feature = "postgres")]
    pub async fn postgres(pool: sqlx::PgPool) -> Result<Self, Error> {
        Self::postgres_with(pool, Options::default()).await
    }

    /// [`Db::postgres`] with options.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::open`].
    #[cfg(feature = "postgres")]
    pub async fn postgres_with(pool: sqlx::PgPool, options: Options) -> Result<Self, Error> {
        let engine = postgres::Engine::over(pool, &options.postgres).await?;
        let publisher = Arc::new(Publisher::new(options.source.clone()));
        Self::over(Engine::Postgres(Box::new(engine)), publisher, &options).await
    }

    /// The migration that [`Db::open_with`] would run, without running it. `None`: the
    /// ledger's tables have the version of this program.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::open`].
    pub async fn migration(url: &str, options: Options) -> Result<Option<Migration>, Error> {
        let publisher = Arc::new(Publisher::new(options.source.clone()));
        let engine = if is_postgres(url) {
            Box::pin(Self::postgres_engine(url, &options)).await?
        } else {
            let path = path_of(url)?;
            if !path.exists() {
                return Ok(Some(Migration::of_new_file()));
            }
            let hook = Arc::clone(&publisher) as _;
            Engine::Sqlite(sqlite::Engine::open(&path, options.settings, hook).await?)
        };
        let db = Self::on(engine, publisher, &options);
        let pending = schema::pending(&db).await;
        db.close().await;
        pending.map_err(|error| db.explained(error))
    }

    /// The ledger on an engine.
    fn on(engine: Engine, publisher: Arc<Publisher>, options: &Options) -> Self {
        Self(Arc::new(Inner {
            engine,
            clock: options.clock.clone(),
            publisher,
            ledger: OnceLock::new(),
            published: Arc::new(Notify::new()),
            #[cfg(feature = "testing")]
            _home: options.home.clone(),
        }))
    }

    /// The ledger on an engine, whose tables are made if they are missing.
    async fn over(
        engine: Engine,
        publisher: Arc<Publisher>,
        options: &Options,
    ) -> Result<Self, Error> {
        let db = Self::on(engine, publisher, options);
        if !options.as_found {
            let migrated = schema::migrate(&db).await;
            migrated.map_err(|error| db.explained(error))?;
        } else if !schema::is_current(&db).await? {
            return Ok(db);
        }
        let _ = db.0.ledger.set(schema::identity(&db).await?); // set once
        Ok(db)
    }

    fn explained(&self, error: Error) -> Error {
        match &self.0.engine {
            Engine::Sqlite(_) => error,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => engine.explained(error),
        }
    }

    /// Begins a write transaction.
    ///
    /// SQLite takes one writer at a time, and keeps the pages that it changes in memory
    /// as they were until it ends: split a change of gigabytes into several transactions.
    /// This waits for the turn to write for up to
    /// five seconds. A transaction that runs no statement for three seconds, while
    /// others wait or beside a worker, is ended and rolled back: its next statement and
    /// its commit return an error.
    ///
    /// PostgreSQL takes as many as its pool has connections, 16 unless the pool is the
    /// program's own; one more waits for up to 30 seconds.
    ///
    /// Cancelling this future is safe: the transaction is rolled back.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the turn or a connection did not come in time; on SQLite the
    /// message names the holder of the turn, and since when. `is_invalid()` if the calling task has a
    /// transaction open itself and does nothing with it: it would wait for itself.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Tx, Error>> + Send {
        self.begin_at(Location::caller())
    }

    /// [`Db::begin`] for the code at `place`.
    pub(crate) async fn begin_at(&self, place: &'static Location<'static>) -> Result<Tx, Error> {
        let conn = match &self.0.engine {
            Engine::Sqlite(engine) => engine.begin(place).await?,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => engine.begin().await?,
        };
        Ok(Tx::new(conn, self.clone()))
    }

    /// [`Db::begin`] for the ledger's own statements.
    #[track_caller]
    pub(crate) fn begin_own(&self) -> impl Future<Output = Result<Tx, Error>> + Send {
        self.begin_own_at(Location::caller())
    }

    async fn begin_own_at(&self, place: &'static Location<'static>) -> Result<Tx, Error> {
        match &self.0.engine {
            Engine::Sqlite(_) => self.begin_at(place).await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => Ok(Tx::new(engine.begin_broker().await?, self.clone())),
        }
    }

    /// [`Db::begin`] for the start of a process, such as its migrations: waits for a
    /// write lock of another process up to a minute instead of five seconds, and logs
    /// that once.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::begin`].
    pub async fn begin_at_start(&self) -> Result<Tx, Error> {
        match self.path() {
            Some(path) => until_unlocked(path, AT_START, || self.begin()).await,
            None => self.begin().await,
        }
    }

    /// A connection that can only read. Up to eight are in use at a time; a further
    /// caller waits for one, up to 30 s.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if no connection became free in time, or the database is
    /// closed.
    pub async fn read(&self) -> Result<Reader, Error> {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.read().await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => Ok(Reader::new(Home::Postgres(engine.read().await?))),
        }
    }

    /// A connection that can only read, of two kept apart from [`Db::read`] for reads
    /// that may take seconds, such as a search: these wait for each other, and nobody
    /// else waits for them.
    ///
    /// # Errors
    ///
    /// The errors of [`Db::read`].
    pub async fn read_long(&self) -> Result<Reader, Error> {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.read_long().await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => Ok(Reader::new(Home::Postgres(engine.read_long().await?))),
        }
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

    #[cfg(feature = "postgres")]
    pub(super) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// The clock and the service, for a draft.
    pub(crate) fn as_source(&self) -> Source<'_> {
        Source {
            clock: self.clock(),
            name: self.source(),
        }
    }

    /// The database file, if this is SQLite.
    pub fn path(&self) -> Option<&Path> {
        match &self.0.engine {
            Engine::Sqlite(engine) => Some(engine.path()),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => None,
        }
    }

    /// The dialect of the statements that run on this database.
    pub fn dialect(&self) -> Dialect {
        match &self.0.engine {
            Engine::Sqlite(_) => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The database as a person knows it: the file, or the server and the database on it.
    /// It has no user and no password.
    pub fn place(&self) -> String {
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.path().display().to_string(),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => engine.place().to_owned(),
        }
    }

    /// The URL of a database on a server, for another handle in a test.
    #[cfg(feature = "testing")]
    pub(crate) fn url(&self) -> String {
        match &self.0.engine {
            Engine::Sqlite(engine) => format!("sqlite://{}", engine.path().display()),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => engine.url(),
        }
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unnecessary_wraps, reason = "there is one engine then")
    )]
    fn sqlite(&self) -> Option<&sqlite::Engine> {
        match &self.0.engine {
            Engine::Sqlite(engine) => Some(engine),
            #[cfg(feature = "postgres")]
            Engine::Postgres(_) => None,
        }
    }

    /// Closes every connection; the last one tidies the write-ahead log.
    pub async fn close(&self) {
        self.0.publisher.close().await;
        match &self.0.engine {
            Engine::Sqlite(engine) => engine.close().await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => engine.close().await,
        }
    }

    /// Returns an error if the database file, or the write-ahead log beside it, was
    /// removed or replaced: every write is refused then. Costs one system call.
    ///
    /// # Errors
    ///
    /// `is_unavailable()`, with the way out.
    pub fn is_in_place(&self) -> Result<(), Error> {
        self.sqlite().map_or(Ok(()), sqlite::Engine::is_in_place)
    }

    /// Returns an error if the calling task has a transaction open and would wait for
    /// itself if it wrote outside of it.
    pub(crate) async fn unless_own(&self) -> Result<(), Error> {
        match self.sqlite() {
            Some(engine) => engine.unless_own().await,
            None => Ok(()),
        }
    }

    /// Ends a transaction of this process that stands still.
    pub(crate) fn look_at_turn(&self) {
        if let Some(engine) = self.sqlite() {
            engine.look_at_turn();
        }
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
        match self.sqlite() {
            Some(engine) => engine.write_then(work, then).await,
            None => Err(not_sqlite()),
        }
    }

    /// Runs `request` on the writing thread.
    pub(crate) fn request(&self, request: Box<dyn Request>) {
        self.request_since(request, Instant::now());
    }

    /// [`Db::request`], with its wait counted from `since`.
    pub(crate) fn request_since(&self, request: Box<dyn Request>, since: Instant) {
        match self.sqlite() {
            Some(engine) => engine.request(request, since),
            None => request.reply(&Err(not_sqlite())),
        }
    }

    /// The longest wait of a write for its turn.
    pub(crate) fn patience(&self) -> Duration {
        self.sqlite().map_or(PATIENCE, sqlite::Engine::patience)
    }

    /// The connection for lease renewal, which never waits behind a handler.
    pub(crate) async fn renewer(&self) -> Result<Home, Error> {
        match &self.0.engine {
            Engine::Sqlite(engine) => Ok(Home::Sqlite(engine.renewer().await?)),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => Ok(Home::Postgres(engine.broker().await?)),
        }
    }

    /// A number that changes when another process may have committed something. It is
    /// comparable on one connection only.
    pub(crate) async fn version(&self, conn: &mut Conn) -> Result<i64, Error> {
        match &self.0.engine {
            Engine::Sqlite(_) => Ok(sqlx::query_scalar("PRAGMA data_version")
                .fetch_one(conn)
                .await?),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => Ok(engine.news().version(engine, &self.0.published)),
        }
    }

    /// Tells this process, and on PostgreSQL the others, that events were committed.
    pub(crate) fn announce(&self) {
        self.0.published.notify_waiters();
        #[cfg(feature = "postgres")]
        if let Engine::Postgres(engine) = &self.0.engine {
            engine.news().ring(engine);
        }
    }

    /// Notified after each commit of this process that published events.
    pub(crate) fn published(&self) -> &Notify {
        &self.0.published
    }

    /// Returns once everything that can be read now is on the disk: needed before
    /// something outside is ended because of it.
    pub(crate) async fn on_disk(&self) -> Result<(), Error> {
        match self.sqlite() {
            Some(engine) => engine.on_disk().await,
            None => Ok(()),
        }
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
        self.sqlite().is_some_and(sqlite::Engine::at_rest)
    }

    /// Returns whether nobody writes, reads or renews leases.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.sqlite().is_some_and(sqlite::Engine::is_unused)
    }

    /// The number of callers that wait to write.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.sqlite().map_or(0, sqlite::Engine::waiting)
    }
}

/// The longest wait of a write on PostgreSQL for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

fn is_postgres(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    matches!(scheme, Some("postgres" | "postgresql"))
}

#[cfg(not(feature = "postgres"))]
fn without_postgres() -> Error {
    Error::invalid(
        "this program was built without PostgreSQL: build termitary with the feature `postgres`",
    )
}

fn not_sqlite() -> Error {
    Error::internal("only SQLite has a thread that writes")
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
