//! The system that commands run on: the database, the broker and the registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use termitary::db::{Migration, Options};
use termitary::{Broker, Db, Registry};

use super::{database_file, database_server, output};
use crate::app::App;
use crate::config::{Config, MailTransport, Mistake, redact};
use crate::mailer::Mailer;
use crate::schema;
use crate::secret::Secret;
use crate::settings::Settings;
use crate::wiring;

/// The time in which Redis may report that it cannot be used. After it a command
/// continues: the API serves without Redis, and a worker keeps trying.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);

/// The use that a command makes of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// As a server: creates a missing file.
    Create,
    /// As a worker: also creates a missing file.
    Work,
    /// Changes an existing database of this program.
    Change,
    /// Only looks at a ledger, which may belong to another service.
    Look,
    /// The same, at letters, which no transport carries.
    Letters,
    /// Examines a ledger, which may also be of another version, and changes nothing.
    Examine,
}

impl Access {
    pub(super) fn creates(self) -> bool {
        matches!(self, Self::Create | Self::Work)
    }

    pub(super) fn looks(self) -> bool {
        matches!(self, Self::Look | Self::Letters | Self::Examine)
    }
}

/// Returns true if the database file exists. A server's database always does.
pub(super) fn exists(config: &Config) -> bool {
    config.on_postgres() || file_of(&config.database_url).exists()
}

/// An open system.
pub(super) struct System {
    pub(super) db: Db,
    pub(super) broker: Broker,
    pub(super) registry: Registry<App>,
}

impl System {
    /// Opens everything. A command that does more than look brings the database to this version
    /// and registers the subscriptions, so that events published from then on wait for them.
    pub(super) async fn open(config: &Config, access: Access) -> anyhow::Result<Self> {
        if config.on_postgres() {
            database_server::check(config, access).await?;
        } else {
            database_file::check(&file_of(&config.database_url), access).await?;
        }
        let db = open_database(config, access).await?;
        let broker = broker(config, db.clone())?;
        let registry = wiring::registry();
        if !access.looks() {
            check_redis(config, &broker).await?;
            schema::migrate(&db)
                .await
                .map_err(|error| mistake_unless_temporary(config, error))?;
            broker
                .register(&registry)
                .await
                .context("cannot register the subscriptions")?;
        }
        if access != Access::Examine {
            check_mode(config, &broker, access).await?;
        }
        Ok(Self {
            db,
            broker,
            registry,
        })
    }

    /// The application on this system. The secret is created last, so that a wrong setting
    /// leaves no file behind.
    pub(super) async fn app(
        &self,
        config: &Config,
        public_url: String,
        secret: impl AsyncFnOnce() -> anyhow::Result<Secret>,
    ) -> anyhow::Result<App> {
        let mailer = mailer(config)?;
        let settings = Settings {
            public_url: config.public_url.clone().unwrap_or(public_url),
            trusted_proxy_hops: config.trusted_proxies,
            secret: secret().await?,
            connections: config.connections,
            cors_origins: config.cors_origins.clone(),
            activity_kept: config.activity_kept,
            todos_per_user: config.todos_per_user as u64,
            ..Settings::default()
        };
        Ok(App::new(self.broker.clone(), mailer, settings))
    }
}

/// The secret that the API processes of this installation share.
pub(super) async fn secret(config: &Config, db: &Db) -> anyhow::Result<Secret> {
    if let Some(secret) = &config.secret {
        return Ok(secret.clone());
    }
    if let Some(file) = db.path() {
        return Secret::beside(file).map_err(|error| Mistake::new(output::chain(&error)).into());
    }
    let kept = schema::secret(db, &Secret::new_text()?).await?;
    Secret::from_text(&kept).with_context(|| format!("the secret in {}", db.place()))
}

/// The steps that the ledger lacks; nothing is changed.
pub(super) async fn migration(config: &Config) -> anyhow::Result<Option<Migration>> {
    Db::migration(&config.database_url, options())
        .await
        .with_context(|| format!("DATABASE_URL is `{}`", redact(&config.database_url)))
        .map_err(|error| mistake_unless_temporary(config, error))
}

fn options() -> Options {
    Options::default().service("todo")
}

pub(super) async fn open_database(config: &Config, access: Access) -> anyhow::Result<Db> {
    let mut options = options();
    if access == Access::Examine {
        options = options.as_found();
    }
    Db::open_with(&config.database_url, options)
        .await
        .with_context(|| format!("DATABASE_URL is `{}`", redact(&config.database_url)))
        .map_err(|error| mistake_unless_temporary(config, error))
}

/// A mistake in the configuration, unless a retry may help.
fn mistake_unless_temporary(config: &Config, error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(database_server::lacks_rights) {
        return database_server::no_rights(config).into();
    }
    let temporary = |cause: &(dyn std::error::Error + 'static)| {
        let known = cause.downcast_ref::<termitary::Error>();
        known.is_some_and(termitary::Error::is_unavailable)
    };
    if error.chain().any(temporary) {
        return error;
    }
    Mistake::new(output::chain(&error)).into()
}

fn broker(config: &Config, db: Db) -> anyhow::Result<Broker> {
    let mut broker = Broker::builder(db);
    if let Some(lease) = config.lease {
        broker = broker.lease(lease);
    }
    Ok(match &config.redis {
        Some(redis) => broker.redis(redis.clone())?,
        None => broker.sql(),
    })
}

/// Fails for a wrong password, another kind of server or the Redis of another ledger,
/// where waiting does not help. The program starts while Redis is unreachable.
async fn check_redis(config: &Config, broker: &Broker) -> Result<(), Mistake> {
    if config.redis.is_none() {
        return Ok(());
    }
    match tokio::time::timeout(REDIS_TIMEOUT, broker.ping()).await {
        Ok(Err(error)) if error.is_invalid() => Err(Mistake::new(format!(
            "{}. See REDIS_URL, or REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_USERNAME and REDIS_PASSWORD",
            output::chain(&error.into())
        ))),
        _ => Ok(()),
    }
}

/// Warns if a live worker uses another transport. Fails for a worker, because neither would
/// find the deliveries of the other, and for a command that lacks the Redis of the workers,
/// because its numbers would be wrong.
async fn check_mode(config: &Config, broker: &Broker, access: Access) -> anyhow::Result<()> {
    let Some(other) = broker.inspect().worker_of_another_mode().await? else {
        return Ok(());
    };
    let way = match &config.redis {
        Some(redis) => format!(
            "works on the database alone, but Redis at {redis} is configured here: unset REDIS_URL and REDIS_HOST, or stop that worker"
        ),
        None => "works over Redis, but no Redis is configured here: set REDIS_URL or REDIS_HOST as for that worker (systemd: run the command through `termitary-ctl`)".to_owned(),
    };
    let text = format!("worker {} on {} {way}", other.id, other.host);
    let counts_half = access == Access::Look && config.redis.is_none();
    if access == Access::Work || counts_half {
        return Err(Mistake::new(text).into());
    }
    tracing::warn!("{text}");
    Ok(())
}

fn mailer(config: &Config) -> Result<Mailer, Mistake> {
    let mailer = match &config.mail {
        MailTransport::Smtp(url) => Mailer::smtp(url)
            .map_err(|error| Mistake::new(format!("SMTP_URL is `{}`: {error}", redact(url))))?,
        MailTransport::Files(dir) => Mailer::files(dir),
    };
    match &config.mail_from {
        Some(from) => mailer
            .sender(from)
            .map_err(|error| Mistake::new(format!("TERMITARY_MAIL_FROM: {error}"))),
        None => Ok(mailer),
    }
}

/// The file of a `sqlite:` URL.
pub(super) fn file_of(url: &str) -> PathBuf {
    let rest = url
        .strip_prefix("sqlite://")
        .or_else(|| url.strip_prefix("sqlite:"))
        .unwrap_or(url);
    Path::new(rest.split('?').next().unwrap_or_default()).to_owned()
}

/// The operator, as the audit names them.
pub(super) fn operator() -> String {
    let named = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME"));
    format!("cli:{}", user.unwrap_or_else(system_user))
}

/// The name of this process's user in `/etc/passwd`, or else the user's number.
#[cfg(unix)]
fn system_user() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid-{uid}"))
}

#[cfg(not(unix))]
fn system_user() -> String {
    std::env::var("USERNAME").unwrap_or_else(|_| "unknown".to_owned())
}
