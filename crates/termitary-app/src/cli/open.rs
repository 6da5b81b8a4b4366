//! What commands run on: the database, the broker and the application's map.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use termitary::db::Options;
use termitary::{Broker, Db, Registry};

use super::{look, out};
use crate::app::{self, App};
use crate::config::{Config, MailWay, Mistake, redact};
use crate::mail::Mailer;
use crate::secret::Secret;

/// How long Redis may take to say that it cannot be used before a command goes on:
/// the API serves without Redis, and a worker keeps trying.
const REDIS_PATIENCE: Duration = Duration::from_secs(2);

/// What to do where the database file does not exist yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Create it.
    Create,
    /// Say so: a command that only looks must not leave a file behind.
    Refuse,
}

/// Whether the database is there.
pub(super) fn exists(config: &Config) -> bool {
    file_of(&config.database_url).exists()
}

/// An open system.
pub(super) struct System {
    pub(super) db: Db,
    pub(super) broker: Broker,
    pub(super) registry: Registry<App>,
}

impl System {
    /// Opens everything. Subscriptions are made known by whoever may create
    /// the database, so that what is published from then on waits for them.
    pub(super) async fn open(config: &Config, missing: Missing) -> anyhow::Result<Self> {
        look::at(&file_of(&config.database_url), missing).await?;
        let db = open_database(config).await?;
        let broker = broker(config, db.clone())?;
        let registry = app::registry();
        if missing == Missing::Create {
            check_redis(config, &broker).await?;
            app::migrate(&db).await.map_err(mistake_unless_it_passes)?;
            broker
                .register(&registry)
                .await
                .context("cannot register the subscriptions")?;
        }
        check_mode(config, &broker, missing).await?;
        Ok(Self {
            db,
            broker,
            registry,
        })
    }

    /// The application on this system. The secret is made last: a wrong setting
    /// should leave no file behind.
    pub(super) fn app(
        &self,
        config: &Config,
        public_url: String,
        secret: impl FnOnce() -> Result<Secret, Mistake>,
    ) -> anyhow::Result<App> {
        let mailer = mailer(config)?;
        let settings = app::Settings {
            public_url: config.public_url.clone().unwrap_or(public_url),
            trusted_proxy_hops: config.trusted_proxies,
            secret: secret()?,
            connections: config.connections,
            cors_origins: config.cors_origins.clone(),
            activity_kept: config.activity_kept,
            ..app::Settings::default()
        };
        Ok(App::new(self.broker.clone(), mailer, settings))
    }
}

/// The secret that every API process of this installation has.
pub(super) fn secret(config: &Config, db: &Db) -> Result<Secret, Mistake> {
    match &config.secret {
        Some(secret) => Ok(secret.clone()),
        None => Secret::beside(db.path()).map_err(|error| Mistake::new(out::chain(&error))),
    }
}

async fn open_database(config: &Config) -> anyhow::Result<Db> {
    Db::open_with(&config.database_url, Options::default().service("todo"))
        .await
        .with_context(|| format!("DATABASE_URL is `{}`", redact(&config.database_url)))
        .map_err(mistake_unless_it_passes)
}

/// A database that cannot do it now may do it later: then it is a failure, and
/// nobody's mistake.
fn mistake_unless_it_passes(error: anyhow::Error) -> anyhow::Error {
    let passes = |cause: &(dyn std::error::Error + 'static)| {
        let known = cause.downcast_ref::<termitary::Error>();
        known.is_some_and(termitary::Error::is_unavailable)
    };
    if error.chain().any(passes) {
        return error;
    }
    Mistake::new(out::chain(&error)).into()
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

/// A wrong password, another kind of server, another ledger's: known at the first
/// connection, and waiting does not help. A Redis that is away may come back: that
/// is no mistake.
async fn check_redis(config: &Config, broker: &Broker) -> Result<(), Mistake> {
    if config.redis.is_none() {
        return Ok(());
    }
    match tokio::time::timeout(REDIS_PATIENCE, broker.ping()).await {
        Ok(Err(error)) if error.is_invalid() => Err(Mistake::new(format!(
            "{}. See REDIS_URL, or REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_USERNAME and REDIS_PASSWORD",
            out::chain(&error.into())
        ))),
        _ => Ok(()),
    }
}

/// A worker beside this command that travels another way: the numbers of a
/// command would be wrong. A server may be the one that is configured rightly.
async fn check_mode(config: &Config, broker: &Broker, missing: Missing) -> anyhow::Result<()> {
    let Some(other) = broker.inspect().worker_of_another_mode().await? else {
        return Ok(());
    };
    let way = match &config.redis {
        Some(redis) => format!(
            "works on the database alone, but Redis at {redis} is configured here: unset REDIS_URL and REDIS_HOST, or stop that worker"
        ),
        None => "works over Redis, but no Redis is configured here: set REDIS_URL or REDIS_HOST as that worker has it (systemd: run the command through `termitary-ctl`)".to_owned(),
    };
    let text = format!("worker {} on {} {way}", other.id, other.host);
    if missing == Missing::Refuse {
        return Err(Mistake::new(text).into());
    }
    tracing::warn!("{text}");
    Ok(())
}

fn mailer(config: &Config) -> Result<Mailer, Mistake> {
    let mailer = match &config.mail {
        MailWay::Smtp(url) => Mailer::smtp(url)
            .map_err(|error| Mistake::new(format!("SMTP_URL is `{}`: {error}", redact(url))))?,
        MailWay::Files(dir) => Mailer::files(dir),
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

/// Who steers, for the audit.
pub(super) fn operator() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    format!("cli:{}", user.unwrap_or_else(|_| "unknown".to_owned()))
}
