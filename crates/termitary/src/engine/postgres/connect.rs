//! Settings of connections, and the errors of a server that refuses them.

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx_core::Url;

use crate::engine::quoted;
use crate::error::{Error, Kind};

/// The longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that nobody uses is closed after this time.
const IDLE: Duration = Duration::from_mins(5);
/// The oldest server that has what the statements need.
const OLDEST: u32 = 140_000;

/// The statistics of a table of pending work are wrong whenever it was just filled or
/// emptied, and plans made from them are up to fifty times slower. Each statement has
/// one index that it can use, so the planner is told to use indexes and nested loops.
const PINNED: [(&str, &str); 7] = [
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
];

/// The choices of a program for its database.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The schema of the ledger, if it is not [`Settings::SCHEMA`].
    pub(crate) schema: Option<String>,
    /// Commits wait for the disk.
    pub(crate) durable: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schema: None,
            durable: true,
        }
    }
}

impl Settings {
    const SCHEMA: &'static str = "termitary";

    pub(super) fn schema(&self) -> &str {
        self.schema.as_deref().unwrap_or(Self::SCHEMA)
    }

    /// The search path of connections. The tables of the ledger are found behind those
    /// of the program, unless they share a schema that was chosen.
    fn search_path(&self) -> String {
        match &self.schema {
            None => format!("\"$user\", public, {}", quoted(Self::SCHEMA)),
            Some(schema) => format!("{}, public", quoted(schema)),
        }
    }
}

/// The parameters of a URL that are used; one that is misspelt would be ignored.
const PARAMETERS: [&str; 15] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "ssl-mode",
    "ssl-root-cert",
];

/// The options in a URL.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    let wrong = |why: String| {
        Error::invalid(format!(
            "DATABASE_URL is no address of a PostgreSQL database, such as postgres://user:password@host:5432/database: {why}"
        ))
    };
    let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    let known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
    if let Some((name, _)) = parsed.query_pairs().find(|(name, _)| !known(name)) {
        return Err(wrong(format!(
            "it has the parameter `{name}`, which is unknown: write one of {}",
            PARAMETERS.join(", ")
        )));
    }
    // The text of this error may repeat a value.
    PgConnectOptions::from_str(url).map_err(|error| {
        wrong("a parameter has no value that is possible".to_owned()).caused_by(error)
    })
}

/// A kind of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Transactions,
    Broker,
    Read,
    LongRead,
}

impl Use {
    fn most(self) -> u32 {
        match self {
            Self::Transactions => 16,
            Self::Broker | Self::Read => 6,
            Self::LongRead => 2,
        }
    }
}

/// A pool that connects when it is first needed.
pub(super) fn pool(options: &PgConnectOptions, settings: &Settings, used: Use) -> PgPool {
    let mut set = vec![("search_path", settings.search_path())];
    if !settings.durable {
        set.push(("synchronous_commit", "off".to_owned()));
    }
    if matches!(used, Use::Broker | Use::Read) {
        set.extend(PINNED.map(|(name, value)| (name, value.to_owned())));
    }
    if matches!(used, Use::Read | Use::LongRead) {
        set.push(("default_transaction_read_only", "on".to_owned()));
    }
    PgPoolOptions::new()
        .max_connections(used.most())
        .acquire_timeout(PATIENCE)
        .idle_timeout(IDLE)
        .connect_lazy_with(options.clone().options(set))
}

/// A connection of its own that listens to a channel.
pub(super) async fn listener(
    options: &PgConnectOptions,
    channel: &str,
) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(channel).await?;
    Ok(listener)
}

/// The words for missing rights.
const NO_RIGHTS: &str = "does not give this user the rights that it needs: let its owner run `termitary migrate`, or grant them";

/// The code of an error of the server.
fn code(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    error.code().map(std::borrow::Cow::into_owned)
}

/// Explains why a first connection failed.
pub(super) fn refused(place: &str, error: sqlx::Error) -> Error {
    let (kind, why) = match code(&error).as_deref() {
        Some("28P01" | "28000") => (
            Kind::Invalid,
            "refuses the user or the password: check both in DATABASE_URL",
        ),
        Some("3D000") => (
            Kind::Invalid,
            "has no such database: create it first (createdb), or name another one in DATABASE_URL",
        ),
        Some("42501") => (Kind::Invalid, NO_RIGHTS),
        Some(_) => (Kind::Unavailable, "refused the connection"),
        None => (Kind::Unavailable, "does not respond"),
    };
    // rustls refuses a certificate as data that it cannot use.
    let untrusted = |io: &std::io::Error| io.kind() == std::io::ErrorKind::InvalidData;
    let (kind, why) = match &error {
        sqlx::Error::Io(io) if !untrusted(io) => (kind, why),
        sqlx::Error::Tls(_) | sqlx::Error::Io(_) => (
            Kind::Invalid,
            "cannot be reached by TLS as DATABASE_URL asks for: check sslmode, sslrootcert and the server's certificate",
        ),
        sqlx::Error::Configuration(_) => (Kind::Invalid, "cannot be used as DATABASE_URL says"),
        _ => (kind, why),
    };
    Error::new(kind, format!("the database {place} {why}")).caused_by(error)
}

/// Explains why no connection of a pool came in time.
pub(super) fn exhausted(place: &str, pool: &PgPool, error: sqlx::Error) -> Error {
    let most = pool.options().get_max_connections();
    if (pool.size() as usize).saturating_sub(pool.num_idle()) < most as usize {
        return refused(place, error);
    }
    let waited = pool.options().get_acquire_timeout().as_secs_f64();
    let why = format!(
        "all {most} connections to the database {place} stayed in use for {waited} s: end transactions sooner, or begin fewer at once"
    );
    Error::unavailable(why).caused_by(error)
}

/// An error of missing rights, in those words; any other as it is.
pub(super) fn without_rights(place: &str, error: Error) -> Error {
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    if source.and_then(code).as_deref() != Some("42501") {
        return error;
    }
    Error::invalid(format!("the database {place} {NO_RIGHTS}")).caused_by(error)
}

/// Refuses a server that is too old.
pub(super) fn new_enough(place: &str, version: u32) -> Result<(), Error> {
    if version >= OLDEST {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the database {place} is PostgreSQL {}, and Termitary needs 14 or newer: update the server",
        version / 10_000
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        options(url).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_url_says_what_is_used_and_nothing_else() {
        assert_eq!(
            refused("postgres://app:secret@db.example:5433/shop?sslmode=require"),
            ""
        );
        assert_eq!(
            refused("postgresql://localhost/shop?options[search_path]=a"),
            ""
        );
        for (url, named) in [
            (
                "postgres://app:secret@db.example/shop?sslmod=verify-full",
                "`sslmod`",
            ),
            (
                "postgres://app:secret@db.example/shop?sslmode=maybe",
                "a parameter",
            ),
            ("postgres://app:secret@db.example:port/shop", "port"),
        ] {
            let told = refused(url);
            assert!(told.contains(named), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }
}

#[cfg(all(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tls_tests {
    use std::path::Path;
    use std::process::Command;

    use crate::db::Db;
    use crate::testing::TestPostgres;

    fn openssl(folder: &Path, arguments: &str) {
        let mut openssl = Command::new("openssl");
        let made = openssl
            .current_dir(folder)
            .args(arguments.split(' '))
            .output();
        let made = made.unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    fn authority(folder: &Path, name: &str) {
        openssl(
            folder,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
            ),
        );
    }

    /// A certificate of `authority` for this machine, readable by the server's user.
    fn certificate(folder: &Path, authority: &str) {
        std::fs::write(
            folder.join("names"),
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        )
        .unwrap();
        openssl(
            folder,
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in server.csr -days 2 -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -extfile names -out server.crt"
            ),
        );
        let user = Command::new("id")
            .args(["-u", "postgres"])
            .output()
            .unwrap();
        if let Ok(user) = String::from_utf8_lossy(&user.stdout).trim().parse() {
            // Not as another user than root: then the server runs as this one.
            let _ = std::os::unix::fs::chown(folder, Some(user), None);
            let _ = std::os::unix::fs::chown(folder.join("server.key"), Some(user), None);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_is_trusted_by_its_certificate_and_refused_without_the_right_one() {
        let folder = tempfile::tempdir().unwrap();
        authority(folder.path(), "ours");
        authority(folder.path(), "another");
        certificate(folder.path(), "ours");
        let file = |name: &str| folder.path().join(name).display().to_string();
        let server = TestPostgres::conf(&[
            ("ssl", "on"),
            ("ssl_cert_file", &file("server.crt")),
            ("ssl_key_file", &file("server.key")),
        ]);
        let open = async |parameters: String| {
            Db::open(&format!("{}?{parameters}", server.url("postgres"))).await
        };
        let trusted = format!("sslmode=verify-full&sslrootcert={}", file("ours.crt"));
        let db = open(trusted).await.unwrap();
        let encrypted: bool =
            sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                .fetch_one(&mut *db.read().await.unwrap())
                .await
                .unwrap();
        assert!(encrypted);
        let wrong = format!("sslmode=verify-full&sslrootcert={}", file("another.crt"));
        let refused = open(wrong).await.err().unwrap();
        assert!(refused.is_invalid(), "{refused:?}");
        assert!(refused.to_string().contains("sslrootcert"), "{refused}");

        let plain = format!("{}?sslmode=require", TestPostgres::shared().url("postgres"));
        let refused = Db::open(&plain).await.err().unwrap();
        assert!(refused.is_invalid(), "{refused:?}");
    }
}
