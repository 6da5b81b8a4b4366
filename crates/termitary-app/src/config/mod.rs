//! Settings, from the environment and flags: read once, judged once. Every
//! mistake names the setting, the value and the way out.

mod dotenv;
mod envfile;
mod redact;
mod redis;
mod settings;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use termitary::broker::RedisConfig;

use crate::app::{self, Connections};
use crate::secret::Secret;
pub(crate) use dotenv::Dotenv;
pub use redact::{escape, redact};
pub(crate) use settings::SECRETS;
pub use settings::{Documented, Settings, documented};
use values::{choice, days, number, origins, parsed, secret, set, time};

/// What the processes run on.
pub struct Config {
    /// A `sqlite://` URL.
    pub database_url: String,
    /// Redis, where events travel through it.
    pub redis: Option<RedisConfig>,
    /// The address that the API listens on.
    pub host: String,
    /// The port that the API listens on; 0 takes a free one.
    pub port: u16,
    /// Where mail goes.
    pub mail: MailWay,
    /// Who mail comes from, where that is set.
    pub mail_from: Option<String>,
    /// What links in mail begin with, where that is set.
    pub public_url: Option<String>,
    /// How many reverse proxies stand in front of the API.
    pub trusted_proxies: usize,
    /// What answers in the database are sealed with, where that is set.
    pub secret: Option<Secret>,
    /// Pages of these origins may call the API from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// What limits connections to the API.
    pub connections: Connections,
    /// How long an entry stays in the feed; for ever where there is none.
    pub activity_kept: Option<Duration>,
    /// How many deliveries a worker runs at once.
    pub concurrency: usize,
    /// How long running work may take to finish when the process stops.
    pub grace: Duration,
    /// Whether this is production.
    pub production: bool,
    /// The log filter, where that is set.
    pub log_filter: Option<String>,
    /// Whether logs are JSON; none: decided by where they go.
    pub log_json: Option<bool>,
    /// Another lease than the library's, for tests.
    pub(crate) lease: Option<Duration>,
    /// What was left out on purpose, for a log that wants to know.
    pub(crate) notes: Vec<String>,
}

/// Where mail goes.
pub enum MailWay {
    /// To the server of this URL.
    Smtp(String),
    /// Into `.eml` files in this folder.
    Files(PathBuf),
}

/// A setting that cannot be used. Its text never holds a password.
#[derive(Debug)]
pub struct Mistake(String);

impl Mistake {
    /// A mistake, in a sentence that says the way out.
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

impl TryFrom<Settings> for Config {
    type Error = Mistake;

    fn try_from(settings: Settings) -> Result<Self, Mistake> {
        let mut s = settings;
        let notes = Vec::from_iter(ignore_service_link(&mut s));
        Ok(Self {
            notes,
            database_url: database_url(secret(
                "DATABASE_URL",
                s.database_url.as_deref(),
                s.database_url_file.as_deref(),
            )?)?,
            redis: redis::redis(&s)?,
            host: set(s.host.as_deref()).unwrap_or("127.0.0.1").to_owned(),
            port: parsed(
                "PORT",
                s.port.as_deref(),
                "a number from 0 to 65535, such as 3000",
            )?
            .unwrap_or(3000),
            mail: match secret(
                "SMTP_URL",
                s.smtp_url.as_deref(),
                s.smtp_url_file.as_deref(),
            )? {
                Some(url) => MailWay::Smtp(url),
                None => MailWay::Files(set(s.mail_dir.as_deref()).unwrap_or("mail").into()),
            },
            mail_from: set(s.mail_from.as_deref()).map(str::to_owned),
            public_url: public_url(&s)?,
            trusted_proxies: parsed(
                "TERMITARY_TRUSTED_PROXIES",
                s.trusted_proxies.as_deref(),
                "how many proxies stand in front, such as 1",
            )?
            .unwrap_or(0),
            secret: installation_secret(&s)?,
            cors_origins: origins("TERMITARY_CORS_ORIGINS", s.cors_origins.as_deref())?,
            connections: connections(&s)?,
            activity_kept: days(
                "TERMITARY_ACTIVITY_RETENTION",
                s.activity_retention.as_deref(),
                app::Settings::default().activity_kept,
            )?,
            concurrency: number(
                "TERMITARY_CONCURRENCY",
                s.concurrency.as_deref(),
                (1, 10_000),
                64,
            )?,
            grace: time("TERMITARY_SHUTDOWN_GRACE", s.shutdown_grace.as_deref())?
                .unwrap_or(Duration::from_secs(25)),
            production: choice(
                "TERMITARY_ENV",
                s.env.as_deref(),
                &[("development", false), ("production", true)],
            )?
            .unwrap_or(false),
            log_filter: set(s.rust_log.as_deref()).map(str::to_owned),
            log_json: choice(
                "LOG_FORMAT",
                s.log_format.as_deref(),
                &[("pretty", false), ("json", true)],
            )?,
            lease: time("TERMITARY_LEASE", s.lease.as_deref())?,
        })
    }
}

impl Config {
    /// Whether logs are JSON: where that was asked for, and in production where
    /// no terminal shows them.
    pub fn logs_json(&self, terminal: bool) -> bool {
        self.log_json.unwrap_or(self.production && !terminal)
    }

    /// The way to the API, as a client on this machine writes it.
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
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return Err(Mistake::of(
            "DATABASE_URL",
            &redact(&url),
            "this version runs on SQLite only; PostgreSQL comes with a later one. Write sqlite:// and a path, such as sqlite://termitary.db",
        ));
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
            "not a database URL. Write sqlite:// and a path, such as sqlite://termitary.db",
        )),
    }
}

/// Kubernetes sets REDIS_PORT to `tcp://…` in every container beside a service that is
/// named `redis`. Nobody chose that: it is not ours.
fn ignore_service_link(s: &mut Settings) -> Option<String> {
    s.redis_port
        .take_if(|port| port.trim().starts_with("tcp://"))?;
    Some("REDIS_PORT is an address that Kubernetes made for a service: ignored".to_owned())
}

fn public_url(s: &Settings) -> Result<Option<String>, Mistake> {
    let Some(url) = set(s.public_url.as_deref()) else {
        return Ok(None);
    };
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

fn installation_secret(s: &Settings) -> Result<Option<Secret>, Mistake> {
    let text = secret(
        "TERMITARY_SECRET",
        s.secret.as_deref(),
        s.secret_file.as_deref(),
    )?;
    text.map(|text| Secret::from_text(&text))
        .transpose()
        .map_err(|error| Mistake::new(format!("TERMITARY_SECRET {error}")))
}

fn connections(s: &Settings) -> Result<Connections, Mistake> {
    let default = Connections::default();
    let any = (1, 1_000_000);
    let most = number(
        "TERMITARY_CONNECTIONS",
        s.connections.as_deref(),
        any,
        default.most,
    )?;
    let most_per_address = number(
        "TERMITARY_CONNECTIONS_PER_ADDRESS",
        s.connections_per_address.as_deref(),
        any,
        default.most_per_address,
    )?;
    let keep_alive = time("TERMITARY_KEEP_ALIVE", s.keep_alive.as_deref())?;
    Ok(Connections {
        most,
        most_per_address,
        keep_alive: keep_alive.unwrap_or(default.keep_alive),
        ..default
    })
}

#[cfg(test)]
mod tests;
