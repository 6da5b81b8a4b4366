//! The state that every part of the application shares.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use termitary::db::Sequence;
use termitary::{Broker, Bus, Db};
use tokio::sync::watch;
use uuid::Uuid;

use crate::accounts::{Passwords, Sessions};
use crate::credit::Credit;
use crate::mailer::Mailer;
use crate::quota::Quota;
use crate::rate::Rate;
use crate::security;
use crate::settings::Settings;

/// Searches of todos that run or wait in one process, and those of one user.
const SEARCHES: u64 = 16;
const SEARCHES_PER_USER: u64 = 4;

/// The searches of todos: those of one user run one after the other.
pub(crate) type Searches = Quota<Uuid, Arc<tokio::sync::Mutex<()>>>;

/// A handle to the application; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    broker: Broker,
    bus: Bus,
    mailer: Mailer,
    settings: Settings,
    passwords: Passwords,
    sessions: Sessions,
    security: security::Log,
    searches: Searches,
    todo_credit: Credit<Uuid>,
    feed: Sequence,
    /// Counts the changes after which sessions may have ended.
    session_changes: watch::Sender<u64>,
    searches_by_name: Rate<Uuid>,
    searches_by_address: Rate<Uuid>,
}

impl App {
    /// Puts the parts together.
    ///
    /// # Panics
    ///
    /// If argon2 cannot hash at the cost of
    /// [`Settings::hash_cost`](crate::settings::Settings::hash_cost).
    #[expect(
        clippy::expect_used,
        reason = "an impossible cost is a mistake in this program"
    )]
    pub fn new(broker: Broker, mailer: Mailer, settings: Settings) -> Self {
        let passwords = Passwords::new(settings.hash_cost).expect("argon2 takes the cost");
        Self(Arc::new(Inner {
            bus: broker.bus(),
            passwords,
            sessions: Sessions::new(broker.db().clone(), &settings),
            security: security::Log::new(broker.db().clock().clone()),
            todo_credit: Credit::default(),
            feed: broker.db().sequence("activity_seq_seq"),
            session_changes: watch::Sender::new(0),
            searches: Quota::new(SEARCHES, SEARCHES_PER_USER),
            searches_by_name: Rate::new(60, Duration::from_secs(1)),
            // Enough for people, useless for trying a list of addresses.
            searches_by_address: Rate::new(10, Duration::from_mins(1)),
            broker,
            mailer,
            settings,
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

    /// The bus, which publishes outside a transaction.
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// The mailer.
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

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The security log.
    pub(crate) fn security(&self) -> &security::Log {
        &self.0.security
    }

    pub(crate) fn searches(&self) -> &Searches {
        &self.0.searches
    }

    /// The limit on searches for people by name.
    pub(crate) fn searches_by_name(&self) -> &Rate<Uuid> {
        &self.0.searches_by_name
    }

    /// The limit on searches for people by address.
    pub(crate) fn searches_by_address(&self) -> &Rate<Uuid> {
        &self.0.searches_by_address
    }

    /// The todos that users may create before theirs are counted again.
    pub(crate) fn todo_credit(&self) -> &Credit<Uuid> {
        &self.0.todo_credit
    }

    /// The numbers of the entries of the feed.
    pub(crate) fn feed(&self) -> &Sequence {
        &self.0.feed
    }

    /// Tells this process that a committed change ended sessions: their live streams
    /// end at once. Other processes check every few seconds.
    pub(crate) fn sessions_ended(&self) {
        self.0.session_changes.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn session_changes(&self) -> watch::Receiver<u64> {
        self.0.session_changes.subscribe()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.db().clock().now()
    }
}
