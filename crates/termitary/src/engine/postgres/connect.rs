//! Settings of connections, and the errors of a server that refuses them.

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

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
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The schema of the ledger, if it is not [`Settings::SCHEMA`].
    pub(crate) schema: Option<String>,
    /// Commits wait for the disk.
    pub(crate) fast: bool,
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

/// An identifier in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The options in a URL.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    PgConnectOptions::from_str(url).map_err(|error| {
        Error::invalid("DATABASE_URL is no address of a PostgreSQL database: write postgres://user:password@host:5432/database").caused_by(error)
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
    if settings.fast {
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

/// Explains why a first connection failed.
pub(super) fn refused(place: &str, error: sqlx::Error) -> Error {
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    let (kind, why) = match code.as_deref() {
        Some("28P01" | "28000") => (
            Kind::Invalid,
            "refuses the user or the password: check both in DATABASE_URL",
        ),
        Some("3D000") => (
            Kind::Invalid,
            "has no such database: create it first (createdb), or name another one in DATABASE_URL",
        ),
        Some("42501") => (
            Kind::Invalid,
            "does not give this user the rights that it needs: let its owner run `termitary migrate`, or grant them",
        ),
        Some(_) => (Kind::Unavailable, "refused the connection"),
        None => (Kind::Unavailable, "does not respond"),
    };
    let kind = if matches!(error, sqlx::Error::Configuration(_) | sqlx::Error::Tls(_)) {
        Kind::Invalid
    } else {
        kind
    };
    Error::new(kind, format!("the database {place} {why}")).caused_by(error)
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
