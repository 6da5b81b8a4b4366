//! What every part of the application holds: the database, the broker, the
//! mailer, and the settings; and the application's wiring as data.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::http::HeaderValue;
use jiff::Timestamp;
use sqlx::migrate::{MigrateError, Migrator};
use termitary::clock::{days, minutes, secs};
use termitary::{Broker, Bus, Db, Registry};

pub use crate::accounts::HashCost;
use crate::accounts::Passwords;
use crate::auth::Lookups;
use crate::http::Patience;
use crate::mail::{Limit, Mailer};
pub use crate::secret::Secret;
use crate::security;
use crate::todos::Searches;
use crate::users::PeopleSearches;
use crate::{activity, auth, mail, todos, users};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// A handle to the application; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    broker: Broker,
    bus: Bus,
    mailer: Mailer,
    settings: Settings,
    passwords: Passwords,
    lookups: Lookups,
    security: security::Log,
    people_searches: PeopleSearches,
    searches: Searches,
}

/// What can be set about the application itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where people reach the service: links in mails begin with it.
    pub public_url: String,
    /// How much work one password hash is.
    pub hash_cost: HashCost,
    /// How many reverse proxies stand in front. `X-Forwarded-For` is believed
    /// for that many entries from its end; by default it is ignored.
    pub trusted_proxy_hops: usize,
    /// A session that nobody used for this long is over.
    pub session_idle: Duration,
    /// A session this old is over.
    pub session_lifetime: Duration,
    /// What limits guessing at passwords.
    pub login_limits: LoginLimits,
    /// How much mail is sent, to whom and because of whom.
    pub mail_limits: MailLimits,
    /// How long a search of todos may take, its wait for others included.
    pub search_patience: Duration,
    /// How long one request may take until its answer begins.
    pub request_timeout: Duration,
    /// What answers in the database are sealed with, the same in every process that
    /// serves the API; by default a random one of this process.
    pub secret: Secret,
    /// How long an answer is kept for its `Idempotency-Key`.
    pub idempotency_kept: Duration,
    /// The most keys that are kept of one user: the oldest make room.
    pub idempotency_keys: u32,
    /// How often a live stream checks that its session still holds.
    pub stream_check: Duration,
    /// The most live streams of one process.
    pub streams: usize,
    /// The most live streams of one user in one process.
    pub streams_per_user: usize,
    /// What limits connections to the API.
    pub connections: Connections,
    /// How long `/readyz` remembers whether a commit worked.
    pub write_probe_kept: Duration,
    /// Pages of these origins may call the API from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// How long an entry stays in the feed; for ever where there is none.
    pub activity_kept: Option<Duration>,
}

/// What limits connections to the API.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// How many are open at once; more wait in the listener's queue. Fewer where
    /// the process may not open so many files.
    pub most: usize,
    /// How many are open at once from one address, or one /64 of IPv6. Does not
    /// count where [`Settings::trusted_proxy_hops`] is set.
    pub most_per_address: usize,
    /// How long a client may take for the head of a request.
    pub head: Duration,
    /// How long a connection without a request stays open.
    pub keep_alive: Duration,
    /// How long a client may take nothing of an answer.
    pub write: Duration,
    /// How many bytes of large answers wait for their clients at once; a quarter of
    /// them for clients of one address.
    pub unsent: u64,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            most: 4_096,
            most_per_address: 512,
            head: secs(15),
            // Balancers close theirs after 60 s: ours must not be the first.
            keep_alive: secs(75),
            write: secs(30),
            unsent: 256 * 1024 * 1024,
        }
    }
}

impl Connections {
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            head: self.head,
            idle: self.keep_alive,
            write: self.write,
        }
    }
}

/// When further attempts have to wait.
#[derive(Clone, Copy, Debug)]
pub struct LoginLimits {
    /// Failures that an account has free from one source address.
    pub per_account: u32,
    /// Failures that an account has free from all addresses together that its user
    /// never logged in from.
    pub per_account_elsewhere: u32,
    /// Failures that a source address has free.
    pub per_source: u32,
    /// Registrations that a source address has free.
    pub registrations_per_source: u32,
    /// Requests for a new password that a source address has free.
    pub resets_per_source: u32,
    /// Requests for another address, or for a link to confirm one, that an
    /// account has free.
    pub links_per_account: u32,
    /// The first wait; each further failure doubles it.
    pub first_wait: Duration,
    /// The longest wait. As long after it, without an attempt, all is forgotten.
    pub longest_wait: Duration,
}

/// How much mail is sent before further mail is dropped.
#[derive(Clone, Copy, Debug)]
pub struct MailLimits {
    /// Links to confirm an address, and links to a new password, to one
    /// address; each of the two kinds by itself.
    pub links_per_recipient: Limit,
    /// Warnings about the account to one address.
    pub warnings_per_recipient: Limit,
    /// Mails about todos to one address.
    pub todos_per_recipient: Limit,
    /// Mails about todos that one user causes to others. Less than what a
    /// recipient may get: nobody uses that up alone.
    pub todos_per_actor: Limit,
}

impl Default for MailLimits {
    fn default() -> Self {
        let limit = |per_hour, per_day| Limit { per_hour, per_day };
        Self {
            links_per_recipient: limit(3, 10),
            warnings_per_recipient: limit(20, 50),
            todos_per_recipient: limit(100, 300),
            todos_per_actor: limit(50, 150),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            public_url: "http://127.0.0.1:3000".to_owned(),
            hash_cost: HashCost::default(),
            trusted_proxy_hops: 0,
            session_idle: days(14),
            session_lifetime: days(90),
            login_limits: LoginLimits::default(),
            mail_limits: MailLimits::default(),
            search_patience: secs(3),
            request_timeout: secs(30),
            secret: Secret::default(),
            idempotency_kept: days(1),
            idempotency_keys: 1_000,
            stream_check: secs(5),
            streams: 1_000,
            streams_per_user: 10,
            connections: Connections::default(),
            write_probe_kept: secs(5),
            cors_origins: Vec::new(),
            activity_kept: Some(days(400)),
        }
    }
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            per_account: 10,
            per_account_elsewhere: 100,
            per_source: 50,
            registrations_per_source: 200,
            resets_per_source: 20,
            links_per_account: 5,
            first_wait: secs(5),
            longest_wait: minutes(15),
        }
    }
}

impl App {
    /// Puts the parts together.
    ///
    /// # Panics
    ///
    /// Where [`Settings::hash_cost`] asks for what argon2 cannot do.
    #[expect(
        clippy::expect_used,
        reason = "a cost that cannot be is a mistake in this program"
    )]
    pub fn new(broker: Broker, mailer: Mailer, settings: Settings) -> Self {
        let passwords = Passwords::new(settings.hash_cost).expect("argon2 takes the cost");
        let bus = broker.bus();
        Self(Arc::new(Inner {
            broker,
            bus,
            mailer,
            settings,
            passwords,
            lookups: Lookups::default(),
            security: security::Log::default(),
            people_searches: PeopleSearches::default(),
            searches: Searches::default(),
        }))
    }

    /// The database.
    pub fn db(&self) -> &Db {
        self.0.broker.db()
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    /// Publishes outside a transaction.
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// Sends mail.
    pub fn mailer(&self) -> &Mailer {
        &self.0.mailer
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.0.lookups
    }

    pub(crate) fn security(&self) -> &security::Log {
        &self.0.security
    }

    pub(crate) fn people_searches(&self) -> &PeopleSearches {
        &self.0.people_searches
    }

    pub(crate) fn searches(&self) -> &Searches {
        &self.0.searches
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.db().clock().now()
    }
}

/// Every event, subscription and schedule of the application.
pub fn registry() -> Registry<App> {
    Registry::new()
        .merge(auth::subscriptions())
        .merge(users::subscriptions())
        .merge(todos::subscriptions())
        .merge(activity::subscriptions())
        .merge(mail::subscriptions())
}

/// Brings the application's own tables to this program's version.
pub async fn migrate(db: &Db) -> anyhow::Result<()> {
    // One immediate transaction: of two processes that start together, the
    // second waits and finds everything done.
    let mut tx = db.begin_at_start().await?;
    let migrated = MIGRATIONS.run(&mut *tx.sqlite()?).await;
    match migrated {
        Ok(()) => Ok(tx.commit().await?),
        Err(MigrateError::VersionMissing(version)) => bail!(
            "{} was written by a newer version of this program (migration {version} is unknown here): start the newer program, or restore a backup from before it ran",
            db.path().display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot migrate {}", db.path().display())),
    }
}

/// Whether these migrations, by version and checksum, are this program's.
pub(crate) fn has_made(applied: &[(i64, Vec<u8>)]) -> bool {
    MIGRATIONS.iter().next().is_some_and(|first| {
        let is_first = |(version, checksum): &(i64, Vec<u8>)| {
            *version == first.version && checksum[..] == first.checksum[..]
        };
        applied.iter().any(is_first)
    })
}

/// The names of the application's own tables.
pub(crate) fn tables() -> BTreeSet<String> {
    let texts = MIGRATIONS.iter().map(|migration| migration.sql.as_str());
    let after = texts.flat_map(|text| text.split("CREATE TABLE ").skip(1));
    after
        .filter_map(|rest| rest.split([' ', '(', '\n']).next())
        .map(str::to_owned)
        .collect()
}

/// Whether the tables are at this program's version.
pub(crate) async fn is_migrated(db: &Db) -> Result<bool, termitary::Error> {
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut *db.read().await?)
            .await?;
    Ok(applied == MIGRATIONS.iter().map(|migration| migration.version).max())
}

/// The instant of a stored number of microseconds; out of range, the epoch.
pub(crate) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
