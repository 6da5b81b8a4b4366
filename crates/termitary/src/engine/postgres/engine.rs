//! The connections to one PostgreSQL database.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};

use super::Horizon;
use super::conn::PgConn;
use super::connect::{self, Settings, Use};
use super::news::News;
use crate::engine::{Conn, quoted};
use crate::error::{Error, Kind};

/// A database on a server.
pub(crate) struct Engine {
    /// For the transactions of users, which may be theirs.
    transactions: PgPool,
    /// For the statements of brokers, in a transaction or alone.
    broker: PgPool,
    readers: PgPool,
    long_readers: PgPool,
    /// Begins a transaction of users.
    begin: String,
    options: PgConnectOptions,
    place: String,
    schema: String,
    news: News,
    /// Of the sequences of [`SEQUENCES`].
    horizons: [Horizon; 2],
}

/// The sequences whose numbers are read in order.
const SEQUENCES: [&str; 2] = ["termitary_events_seq_seq", "termitary_broadcasts_seq_seq"];

impl Engine {
    /// Opens a database by its URL.
    pub(crate) async fn open(url: &str, settings: &Settings) -> Result<Self, Error> {
        let options = connect::options(url)?;
        let transactions = connect::pool(&options, settings, Use::Transactions);
        Self::of(transactions, options, settings, "BEGIN".to_owned()).await
    }

    /// Opens the database of a pool, whose connections serve the transactions of users.
    pub(crate) async fn over(pool: PgPool, settings: &Settings) -> Result<Self, Error> {
        let options = (*pool.connect_options()).clone();
        let begin = format!("BEGIN; {}", shown(settings.schema()));
        Self::of(pool, options, settings, begin).await
    }

    async fn of(
        transactions: PgPool,
        options: PgConnectOptions,
        settings: &Settings,
        begin: String,
    ) -> Result<Self, Error> {
        let place = format!(
            "{}:{}/{}",
            options.get_host(),
            options.get_port(),
            options
                .get_database()
                .unwrap_or_else(|| options.get_username()),
        );
        let conn = transactions.acquire().await;
        let conn = conn.map_err(|error| connect::refused(&place, error))?;
        connect::new_enough(&place, conn.server_version_num().unwrap_or(u32::MAX))?;
        drop(conn);
        let options = options.application_name("termitary");
        Ok(Self {
            transactions,
            broker: connect::pool(&options, settings, Use::Broker),
            readers: connect::pool(&options, settings, Use::Read),
            long_readers: connect::pool(&options, settings, Use::LongRead),
            begin,
            options,
            place,
            schema: settings.schema().to_owned(),
            news: News::of(settings.schema()),
            horizons: SEQUENCES.map(Horizon::of),
        })
    }

    /// Begins a transaction of a user.
    pub(crate) async fn begin(&self) -> Result<Conn, Error> {
        self.begin_on(&self.transactions, self.begin.clone()).await
    }

    /// Begins a transaction of a broker.
    pub(crate) async fn begin_broker(&self) -> Result<Conn, Error> {
        self.begin_on(&self.broker, "BEGIN".to_owned()).await
    }

    /// Begins in a task of its own: a caller that stops waiting would leave an open
    /// transaction in the pool (launchbadge/sqlx#4385).
    async fn begin_on(&self, pool: &PgPool, begin: String) -> Result<Conn, Error> {
        let from = pool.clone();
        let opening = tokio::spawn(async move { from.begin_with(AssertSqlSafe(begin)).await });
        let opened = opening
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))?;
        let transaction = opened.map_err(|error| self.unreachable(pool, error))?;
        Ok(Conn::in_postgres(PgConn::transaction(transaction)))
    }

    /// A connection for single statements of brokers.
    pub(crate) async fn broker(&self) -> Result<Conn, Error> {
        self.of_pool(&self.broker).await
    }

    /// A connection that can only read.
    pub(crate) async fn read(&self) -> Result<Conn, Error> {
        self.of_pool(&self.readers).await
    }

    /// A connection that can only read, for reads that may take seconds.
    pub(crate) async fn read_long(&self) -> Result<Conn, Error> {
        self.of_pool(&self.long_readers).await
    }

    async fn of_pool(&self, pool: &PgPool) -> Result<Conn, Error> {
        let conn = pool
            .acquire()
            .await
            .map_err(|error| self.unreachable(pool, error))?;
        Ok(Conn::in_postgres(PgConn::pooled(conn)))
    }

    /// Lets a transaction that is not ours find the tables of the ledger. Returns its
    /// search path if it has another one now: see [`Engine::hide_ledger`].
    pub(crate) async fn show_ledger(
        &self,
        conn: &mut sqlx::PgConnection,
    ) -> Result<Option<String>, Error> {
        let shown = AssertSqlSafe(shown(&self.schema));
        Ok(sqlx::query_scalar(shown).fetch_optional(conn).await?)
    }

    /// Gives a transaction its own search path again.
    pub(crate) async fn hide_ledger(
        &self,
        conn: &mut sqlx::PgConnection,
        search_path: &str,
    ) -> Result<(), Error> {
        sqlx::query("SELECT set_config('search_path', $1, true)")
            .bind(search_path)
            .execute(conn)
            .await?;
        Ok(())
    }

    fn unreachable(&self, pool: &PgPool, error: sqlx::Error) -> Error {
        match error {
            sqlx::Error::PoolTimedOut => connect::exhausted(&self.place, pool, error),
            sqlx::Error::PoolClosed => Error::new(Kind::Unavailable, "the database is closed"),
            sqlx::Error::Io(_) => connect::refused(&self.place, error),
            other => other.into(),
        }
    }

    /// Explains an error of the ledger's start.
    pub(crate) fn explained(&self, error: Error) -> Error {
        connect::without_rights(&self.place, error)
    }

    /// The options for a connection beside the pools.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The address with the password, for another handle in a test.
    #[cfg(feature = "testing")]
    pub(crate) fn url(&self) -> String {
        use sqlx::ConnectOptions as _;
        self.options.to_url_lossy().to_string()
    }

    pub(super) fn broker_pool(&self) -> &PgPool {
        &self.broker
    }

    /// Commits of other processes.
    pub(crate) fn news(&self) -> &News {
        &self.news
    }

    /// The part of a sequence of [`SEQUENCES`] that is decided.
    pub(crate) fn horizon(&self, sequence: usize) -> &Horizon {
        &self.horizons[sequence]
    }

    /// The server and the database, without user and password.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The schema of the ledger.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// The same, as an identifier in a statement.
    pub(crate) fn quoted_schema(&self) -> String {
        quoted(&self.schema)
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        for pool in [
            &self.readers,
            &self.long_readers,
            &self.broker,
            &self.transactions,
        ] {
            pool.close().await;
        }
    }
}

/// The statement that lets a transaction find the ledger, unless it does: the schema is
/// the last one in its search path, or the first one if another ledger is there. Returns
/// the search path as it was.
fn shown(schema: &str) -> String {
    let quoted = quoted(schema);
    let found = "to_regclass('termitary_schema')";
    let own = format!(
        "to_regclass({})",
        literal(&format!("{quoted}.termitary_schema"))
    );
    let path = "nullif(current_setting('search_path'), '')";
    let schema = literal(&quoted);
    format!(
        "SELECT current_setting('search_path'), set_config('search_path', CASE
            WHEN {found} IS NULL THEN concat_ws(', ', {path}, {schema})
            ELSE concat_ws(', ', {schema}, {path}) END, true)
         WHERE coalesce({found} <> {own}, true)"
    )
}

/// A text in single quotes.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
