//! PostgreSQL servers for tests: one of a test's own, and one that all tests share.

mod server;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::server::{SHARED_CONF, SHARED_URL, Server};
use super::must;

/// A real PostgreSQL server: on a loopback port that was free, in a temporary folder, ended when
/// dropped and when the test program ends. Needs `initdb` and `postgres` in `PATH`, in the folder
/// `PG_BIN` or in `/usr/lib/postgresql`. A test that runs as root starts them as the user
/// `postgres` or `nobody`.
///
/// Most tests need only a database, not a server:
///
/// ```no_run
/// use termitary::testing::TestPostgres;
///
/// let database = TestPostgres::shared().create_database();
/// let url = database.url(); // postgres://postgres@127.0.0.1:…/…
/// ```
pub struct TestPostgres {
    /// Its URL without a database.
    address: String,
    /// The process, unless another program started it.
    server: Option<Server>,
}

impl TestPostgres {
    /// A server of this test's own with PostgreSQL's default settings.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start.
    pub fn start() -> Self {
        Self::conf(&[])
    }

    /// A server of this test's own with these settings of `postgresql.conf`, which also apply after
    /// [`TestPostgres::restart`].
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start.
    pub fn conf(settings: &[(&str, &str)]) -> Self {
        let server = must(Server::start(settings), "a PostgreSQL server");
        Self {
            address: server.address(),
            server: Some(server),
        }
    }

    /// The server that all tests share: fast, but a crash of the machine may destroy its data. The
    /// variable `TERMITARY_TEST_POSTGRES_URL` names a running server, such as
    /// `postgres://postgres@127.0.0.1:5432`; without it, this test program starts one at the first
    /// call.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestPostgres> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(SHARED_URL) {
            Ok(url) if !url.is_empty() => Self {
                address: url.trim_end_matches('/').to_owned(),
                server: None,
            },
            _ => Self::conf(SHARED_CONF),
        })
    }

    /// The URL of a database on this server, as the superuser `postgres`. The database `postgres`
    /// always exists.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.address)
    }

    /// Creates an empty database, which is dropped with the returned value.
    ///
    /// # Panics
    /// If the server does not create it.
    pub fn create_database(&self) -> PostgresDatabase {
        let name = format!("test_{:016x}", fastrand::u64(..));
        let database = PostgresDatabase {
            url: self.url(&name),
            server: self.url("postgres"),
            name,
        };
        let created = database.execute("CREATE DATABASE {name}").join();
        must(must(created, "a thread that ends"), "a new database");
        database
    }

    /// Its port on 127.0.0.1.
    ///
    /// # Panics
    /// If another program started the server.
    pub fn port(&self) -> u16 {
        self.own().port()
    }

    /// The folder of its data.
    ///
    /// # Panics
    /// If another program started the server.
    pub fn data(&self) -> PathBuf {
        self.own().data()
    }

    /// Ends it at once, as a crash does: it recovers at [`TestPostgres::restart`].
    pub fn kill(&mut self) {
        must(self.own_mut().end("QUIT"), "a server to kill");
    }

    /// Ends it in order, without waiting for its clients.
    pub fn stop(&mut self) {
        must(self.own_mut().end("INT"), "a server to stop");
    }

    /// Starts it on the same port and with its data, after stopping it if it runs.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        must(self.own_mut().restart(), "a server that restarts");
    }

    fn own(&self) -> &Server {
        must(
            self.server.as_ref().ok_or(SHARED_URL),
            "a server of our own",
        )
    }

    fn own_mut(&mut self) -> &mut Server {
        must(
            self.server.as_mut().ok_or(SHARED_URL),
            "a server of our own",
        )
    }
}

/// A database on a [`TestPostgres`]. Its drop also drops the database, in the background and even
/// if there are connections to it; a database that remains at the end of the test program is
/// deleted with the server.
pub struct PostgresDatabase {
    url: String,
    name: String,
    /// The URL of the database `postgres` on the same server.
    server: String,
}

impl PostgresDatabase {
    /// Its URL, as the superuser `postgres`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a statement about this database on a thread and runtime of its own: the caller may be a
    /// drop, or a test without a runtime.
    fn execute(&self, statement: &str) -> JoinHandle<Result<(), sqlx::Error>> {
        let statement = statement.replace("{name}", &self.name);
        let url = self.server.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await?;
                sqlx::raw_sql(AssertSqlSafe(statement))
                    .execute(&mut connection)
                    .await?;
                connection.close().await
            })
        })
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        drop(self.execute("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    async fn run(url: &str, statement: &'static str) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(statement).execute(&mut connection).await?;
        connection.close().await
    }

    async fn count(url: &str, statement: &'static str) -> Result<i64, sqlx::Error> {
        let mut connection = PgConnection::connect(url).await?;
        let count = sqlx::query_scalar(statement)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(count)
    }

    #[tokio::test]
    async fn committed_rows_survive_a_killed_server() -> Result<(), sqlx::Error> {
        let mut postgres = TestPostgres::conf(&[("max_connections", "12")]);
        let (one, two) = (postgres.create_database(), postgres.create_database());
        assert_ne!(one.name(), two.name());
        run(one.url(), "CREATE TABLE it (n BIGINT)").await?;
        run(one.url(), "INSERT INTO it VALUES (1), (2)").await?;
        let mut open = PgConnection::connect(one.url()).await?;

        postgres.kill();
        assert!(open.ping().await.is_err());
        assert!(PgConnection::connect(two.url()).await.is_err());

        postgres.restart();
        assert_eq!(count(one.url(), "SELECT count(*) FROM it").await?, 2);
        assert!(count(two.url(), "SELECT count(*) FROM it").await.is_err());
        let limit = "SELECT current_setting('max_connections')::bigint";
        assert_eq!(count(two.url(), limit).await?, 12);
        postgres.stop();
        assert!(PgConnection::connect(two.url()).await.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_database_is_dropped_with_its_handle_even_while_it_is_used() -> Result<(), sqlx::Error>
    {
        let database = TestPostgres::shared().create_database();
        let (url, server) = (database.url().to_owned(), database.server.clone());
        let mut open = PgConnection::connect(&url).await?;
        assert_eq!(count(&url, "SELECT 1::bigint").await?, 1);

        let name = database.name().to_owned();
        drop(database);
        let patience = Instant::now() + Duration::from_secs(20);
        let mut connection = PgConnection::connect(&server).await?;
        let find = "SELECT count(*) FROM pg_database WHERE datname = $1";
        loop {
            let found = sqlx::query_scalar(find).bind(&name);
            let found: i64 = found.fetch_one(&mut connection).await?;
            if found == 0 {
                break;
            }
            assert!(Instant::now() < patience, "the database remains");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(open.ping().await.is_err());
        Ok(())
    }

    #[test]
    fn a_server_ends_even_if_its_test_program_is_killed() -> Result<(), Box<dyn Error>> {
        const HOLDS: &str = "TERMITARY_TEST_HOLDS_A_SERVER";
        if std::env::var_os(HOLDS).is_some() {
            let postgres = TestPostgres::start();
            println!("server {} {}", postgres.port(), postgres.data().display());
            loop {
                std::thread::park();
            }
        }
        let name = "testing::postgres::tests::a_server_ends_even_if_its_test_program_is_killed";
        let mut program = Command::new(std::env::current_exe()?)
            .args(["--exact", name, "--nocapture"])
            .env(HOLDS, "1")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(program.stdout.take().ok_or("no output")?);
        // libtest may write the name of the test before it on the same line.
        let mut lines = output.lines().map_while(Result::ok);
        let line = lines.find_map(|line| Some(line.split_once("server ")?.1.to_owned()));
        let line = line.ok_or("no server")?;
        let (port, data) = line.split_once(' ').ok_or("no folder")?;
        let port: u16 = port.parse()?;
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

        program.kill()?;
        program.wait()?;
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_ok() || Path::new(data).exists() {
            assert!(Instant::now() < patience, "the server remains");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    #[test]
    fn a_dropped_server_leaves_no_process_and_no_folder() {
        let postgres = TestPostgres::start();
        let (data, port) = (postgres.data(), postgres.port());
        assert!(data.exists());
        drop(postgres);
        assert!(!data.exists());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
