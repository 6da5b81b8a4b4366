//! The settings of the application itself, with their defaults. Processes fill them
//! from the configuration, tests by hand.

use std::time::Duration;

use axum::http::HeaderValue;
use termitary::clock::{days, minutes, secs};

use crate::secret::Secret;

/// The settings of the application.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public address of the service; links in mails start with it.
    pub public_url: String,
    /// The cost of one password hash.
    pub hash_cost: HashCost,
    /// The number of reverse proxies in front. This many entries at the end of
    /// `X-Forwarded-For` are trusted; 0 ignores the header.
    pub trusted_proxy_hops: usize,
    /// A session ends after this time without use.
    pub session_idle: Duration,
    /// A session ends at this age.
    pub session_lifetime: Duration,
    /// The limits on guessing passwords.
    pub login_limits: LoginLimits,
    /// The limits on sent mail.
    pub mail_limits: MailLimits,
    /// The longest time that a search of todos takes, including its wait for others.
    pub search_patience: Duration,
    /// The longest time from a request to the start of its response.
    pub request_timeout: Duration,
    /// The key that seals responses stored in the database. Every API process needs
    /// the same one; the default is random for this process.
    pub secret: Secret,
    /// The time that a response is kept for its `Idempotency-Key`.
    pub idempotency_kept: Duration,
    /// The number of keys kept per user; the oldest are deleted first.
    pub idempotency_keys: u32,
    /// The interval at which live streams check their sessions.
    pub stream_check: Duration,
    /// The most live streams of one process.
    pub streams: usize,
    /// The most live streams of one user in one process.
    pub streams_per_user: usize,
    /// The limits on connections to the API.
    pub connections: Connections,
    /// The time for which `/readyz` reuses the result of its test commit.
    pub write_probe_kept: Duration,
    /// Pages of these origins may call the API from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// The time that an entry stays in the feed; `None` keeps it for ever.
    pub activity_kept: Option<Duration>,
    /// The most open todos that one user owns.
    pub todos_per_user: u64,
    /// The most sessions of one user; a further login ends the oldest.
    pub sessions_per_user: u32,
    /// The most unused stream tickets of one user; a further one replaces the oldest.
    pub tickets_per_user: u32,
}

/// The cost of one password hash (argon2id).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// The limits on connections to the API.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// The most open connections; more wait in the listener's queue. Lower if the
    /// process may not open as many files.
    pub most: usize,
    /// The most open connections from one address, or one /64 of IPv6. Ignored if
    /// [`Settings::trusted_proxy_hops`] is set.
    pub most_per_address: usize,
    /// The time in which a client must send the head of a request.
    pub head: Duration,
    /// The time that a connection without a request stays open.
    pub keep_alive: Duration,
    /// The longest time in which a client reads nothing of a response.
    pub write: Duration,
    /// The most bytes of large responses that wait for their clients; a quarter of
    /// them for clients of one address.
    pub unsent: u64,
}

/// The limits after which further attempts must wait.
#[derive(Clone, Copy, Debug)]
pub struct LoginLimits {
    /// Free failures of an account from one source address.
    pub per_account: u32,
    /// Free failures of an account from all addresses together that its user never
    /// logged in from.
    pub per_account_elsewhere: u32,
    /// Free failures of a source address.
    pub per_source: u32,
    /// Free registrations of a source address.
    pub registrations_per_source: u32,
    /// Free requests for a new password of a source address.
    pub resets_per_source: u32,
    /// Free requests of an account for another address or for a link to confirm one.
    pub links_per_account: u32,
    /// The first wait; each further failure doubles it.
    pub first_wait: Duration,
    /// The longest wait. After as long again without an attempt the count starts anew.
    pub longest_wait: Duration,
}

/// The most mails in an hour and in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailLimit {
    /// In any 60 minutes.
    pub per_hour: u32,
    /// In any 24 hours.
    pub per_day: u32,
}

/// The limits on sent mail; mail beyond them is dropped.
#[derive(Clone, Copy, Debug)]
pub struct MailLimits {
    /// Links to one address. Links that confirm an address and links to a new password
    /// count separately.
    pub links_per_recipient: MailLimit,
    /// Warnings about the account to one address.
    pub warnings_per_recipient: MailLimit,
    /// Mails about todos to one address.
    pub todos_per_recipient: MailLimit,
    /// Mails about todos that one user causes to others. Lower than the limit of a
    /// recipient, so that no user alone can exhaust it.
    pub todos_per_actor: MailLimit,
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
            todos_per_user: 10_000,
            sessions_per_user: 100,
            tickets_per_user: 20,
        }
    }
}

impl Default for HashCost {
    /// The minimum that OWASP recommends for argon2id: 19 MiB, two passes.
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            lanes: 1,
        }
    }
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

impl Default for MailLimits {
    fn default() -> Self {
        let limit = |per_hour, per_day| MailLimit { per_hour, per_day };
        Self {
            links_per_recipient: limit(3, 10),
            warnings_per_recipient: limit(20, 50),
            todos_per_recipient: limit(100, 300),
            todos_per_actor: limit(50, 150),
        }
    }
}
