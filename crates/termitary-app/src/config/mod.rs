//! The configuration, from the environment, flags and `.env`: read and checked once. Each
//! error names the setting, the value and the way out.

mod dotenv;
mod envfile;
mod redact;
mod redis;
mod values;
mod variables;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use axum::http::HeaderValue;
use sqlx::postgres::PgConnectOptions;
use termitary::broker::RedisConfig;

use crate::secret::Secret;
use crate::settings::{Connections, Settings};
pub(crate) use dotenv::Dotenv;
pub use redact::{escape, redact};
pub use variables::{Documented, Variables, documented};
pub(crate) use variables::{in_environment, knows, secrets};

/// The configuration of a process.
pub struct Config {
    /// A `sqlite://` or a `postgres://` URL.
    pub database_url: String,
    /// Redis, if events travel through it.
    pub redis: Option<RedisConfig>,
    /// The address that the API listens on.
    pub host: String,
    /// The port that the API listens on; 0 takes a free one.
    pub port: u16,
    /// The transport of mail.
    pub mail: MailTransport,
    /// The sender of mail, if it is set.
    pub mail_from: Option<String>,
    /// The address that links in mail start with, if it is set.
    pub public_url: Option<String>,
    /// The number of reverse proxies in front of the API.
    pub trusted_proxies: usize,
    /// The secret of the installation, if it is set.
    pub secret: Option<Secret>,
    /// Pages of these origins may call the API from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// The limits on connections to the API.
    pub connections: Connections,
    /// The time that an entry stays in the feed; `None` keeps it for ever.
    pub activity_kept: Option<Duration>,
    /// The most open todos that one user owns.
    pub todos_per_user: usize,
    /// The number of deliveries that a worker runs at once.
    pub concurrency: usize,
    /// The time that running work may take to finish when the process stops.
    pub grace: Duration,
    /// True in production.
    pub production: bool,
    /// The log filter, if it is set.
    pub log_filter: Option<String>,
    /// True for JSON logs, false for text; `None` decides by the terminal.
    pub log_json: Option<bool>,
    /// The lease, if it is not the library's default. For tests.
    pub(crate) lease: Option<Duration>,
    /// Ignored settings, for the debug log.
    pub(crate) notes: Vec<String>,
}

/// The transport of mail.
pub enum MailTransport {
    /// The server of this URL.
    Smtp(String),
    /// `.eml` files in this folder.
    Files(PathBuf),
}

/// An invalid setting. Its text never contains a password.
#[derive(Debug)]
pub struct Mistake(String);

impl Mistake {
    /// A mistake, in a sentence that names the way out.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn of(name: &str, value: &str, way_out: &str) -> Self {
        Self(format!("{name} is `{}`: {way_out}", escape(value)))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

impl TryFrom<Variables> for Config {
    type Error = Mistake;

    fn try_from(mut set: Variables) -> Result<Self, Mistake> {
        let notes = Vec::from_iter(ignore_service_link(&mut set));
        let text = |name| set.get(name).map(str::to_owned);
        Ok(Self {
            notes,
            database_url: database_url(set.secret("DATABASE_URL")?)?,
            redis: redis::redis(&set)?,
            host: text("HOST").unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: set
                .parsed("PORT", "a number from 0 to 65535, such as 3000")?
                .unwrap_or(3000),
            mail: match set.secret("SMTP_URL")? {
                Some(url) => MailTransport::Smtp(url),
                None => MailTransport::Files(set.get("MAIL_DIR").unwrap_or("mail").into()),
            },
            mail_from: text("TERMITARY_MAIL_FROM"),
            public_url: public_url(set.get("TERMITARY_PUBLIC_URL"))?,
            trusted_proxies: set
                .parsed(
                    "TERMITARY_TRUSTED_PROXIES",
                    "the number of proxies in front, such as 1",
                )?
                .unwrap_or(0),
            secret: installation_secret(set.secret("TERMITARY_SECRET")?)?,
            cors_origins: set.origins("TERMITARY_CORS_ORIGINS")?,
            connections: connections(&set)?,
            activity_kept: set.days(
                "TERMITARY_ACTIVITY_RETENTION",
                Settings::default().activity_kept,
            )?,
            todos_per_user: set.number("TERMITARY_TODOS_PER_USER", (1, 1_000_000_000), 10_000)?,
            concurrency: set.number("TERMITARY_CONCURRENCY", (1, 10_000), 64)?,
            grace: set
                .time("TERMITARY_SHUTDOWN_GRACE")?
                .unwrap_or(Duration::from_secs(25)),
            production: set
                .choice(
                    "TERMITARY_ENV",
                    &[("development", false), ("production", true)],
                )?
                .unwrap_or(false),
            log_filter: text("RUST_LOG"),
            log_json: set.choice("LOG_FORMAT", &[("pretty", false), ("json", true)])?,
            lease: set.time("TERMITARY_LEASE")?,
        })
    }
}

impl Config {
    /// Returns true for JSON logs: if requested, and in production without a terminal.
    pub fn logs_json(&self, terminal: bool) -> bool {
        self.log_json.unwrap_or(self.production && !terminal)
    }

    /// Returns true if the database is on a PostgreSQL server.
    pub(crate) fn on_postgres(&self) -> bool {
        is_postgres(&self.database_url)
    }

    /// The address of the API for a client on this machine.
    pub fn local_url(&self, port: u16) -> String {
        let host = match self.host.as_str() {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            "::" => "[::1]".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        format!("http://{host}:{port}")
    }
}

fn database_url(url: Option<String>) -> Result<String, Mistake> {
    let url = url.unwrap_or_else(|| "sqlite://termitary.db".to_owned());
    if is_postgres(&url) {
        return match PgConnectOptions::from_str(&url) {
            Ok(_) => Ok(url),
            Err(_) => Err(Mistake::of(
                "DATABASE_URL",
                &redact(&url),
                "no address of a PostgreSQL database. Write postgres://user:password@host:5432/database",
            )),
        };
    }
    let path = url
        .strip_prefix("sqlite:")
        .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if !path.is_empty() && !path.contains(":memory:") => Ok(url),
        Some(_) => Err(Mistake::of(
            "DATABASE_URL",
            &redact(&url),
            "it names no file, and a database in memory would lose every event. Write sqlite:// and a path, such as sqlite://termitary.db",
        )),
        None => Err(Mistake::of(
            "DATABASE_URL",
            &redact(&url),
            "not a database URL. Write sqlite:// and a path, such as sqlite://termitary.db, or postgres://user:password@host/database",
        )),
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Ignores the REDIS_PORT of the form `tcp://…` that Kubernetes sets in every container
/// beside a service named `redis`.
fn ignore_service_link(set: &mut Variables) -> Option<String> {
    set.remove_if("REDIS_PORT", |port| port.starts_with("tcp://"))
        .then(|| "REDIS_PORT is an address that Kubernetes set for a service: ignored".to_owned())
}

fn public_url(url: Option<&str>) -> Result<Option<String>, Mistake> {
    let Some(url) = url else { return Ok(None) };
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    if host.is_none_or(str::is_empty) {
        return Err(Mistake::of(
            "TERMITARY_PUBLIC_URL",
            &redact(url),
            "write http:// or https:// and a host",
        ));
    }
    Ok(Some(url.trim_end_matches('/').to_owned()))
}

fn installation_secret(text: Option<String>) -> Result<Option<Secret>, Mistake> {
    text.map(|text| Secret::from_text(&text))
        .transpose()
        .map_err(|error| Mistake::new(format!("TERMITARY_SECRET {error}")))
}

fn connections(set: &Variables) -> Result<Connections, Mistake> {
    let default = Connections::default();
    let any = (1, 1_000_000);
    let per_address = default.most_per_address;
    Ok(Connections {
        most: set.number("TERMITARY_CONNECTIONS", any, default.most)?,
        most_per_address: set.number("TERMITARY_CONNECTIONS_PER_ADDRESS", any, per_address)?,
        keep_alive: set
            .time("TERMITARY_KEEP_ALIVE")?
            .unwrap_or(default.keep_alive),
        ..default
    })
}

#[cfg(test)]
mod tests;
