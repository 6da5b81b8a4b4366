//! Decides whether a server may be used. It is checked on every new connection, before anything is
//! read or written, and again after the server lost data: this version must support its kind, and
//! it must carry the deliveries of this ledger.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use uuid::Uuid;

use super::config::RedisConfig;
use super::info::{self, Info};
use super::keys::Keys;
use super::{pipeline, reply, script};
use crate::error::{Error, Kind};
use crate::lock::Mutex;

/// The oldest server that has every command that is needed.
const OLDEST: (u32, u32) = (6, 2);
/// Number of bytes of a foreign text that are printed.
const SHOWN: usize = 64;

/// The requirements of a server, and its ledger.
pub(crate) struct Acceptance {
    /// The address, without user and password.
    server: String,
    database: i64,
    ledger: Uuid,
    place: String,
    keys: Keys,
    /// A server was accepted. One that is refused later may be accepted again, when
    /// a failover is over or an operator was there.
    once: AtomicBool,
    /// The eviction policy that the log has warned of.
    warned: Mutex<Option<String>>,
}

impl Acceptance {
    pub(crate) fn new(config: &RedisConfig, keys: Keys, ledger: Uuid, place: &str) -> Self {
        Self {
            server: config.to_string(),
            database: config.database_number(),
            ledger,
            place: place.to_owned(),
            keys,
            once: AtomicBool::new(false),
            warned: Mutex::default(),
        }
    }

    /// Asks the server at the other end of a new connection. The error is invalid
    /// where no server was accepted before, and waiting does not help.
    pub(crate) async fn ask(&self, conn: &mut MultiplexedConnection) -> Result<(), Error> {
        let mut sections = info::ask(&["server", "replication", "memory"]);
        let replies = sections.send(conn).await?;
        let info = Info::read(replies)?;
        if let Some(why) = unfit(&info) {
            return Err(self.refuse(&why));
        }
        let owner = pipeline::send(conn, &self.claim().whole()).await;
        self.is_ours(owner)?;
        self.warn_of_eviction(&info);
        self.once.store(true, Ordering::Release);
        Ok(())
    }

    /// The script that takes an unclaimed server for this ledger.
    pub(crate) fn claim(&self) -> Claim {
        Claim {
            key: self.keys.owner(),
            ledger: self.ledger.to_string(),
        }
    }

    /// An error where the server carries the deliveries of another ledger.
    pub(crate) fn is_ours(&self, owner: RedisResult<Value>) -> Result<(), Error> {
        let owner = match owner {
            Ok(owner) => reply::text(owner).unwrap_or_default(),
            Err(error) if error.code() == Some("NOPERM") => {
                let key = self.keys.owner();
                return Err(self.refuse(&format!("does not let this user run the script that reads and writes the key `{key}` ({error}): allow it, as deploy/redis/user.conf does")));
            }
            Err(error) => return Err(error.into()),
        };
        if owner == self.ledger.to_string() {
            return Ok(());
        }
        let owner: String = owner.escape_debug().take(SHOWN).collect();
        let key = self.keys.owner();
        let number = match self.database {
            0 => String::new(),
            n => format!("-n {n} "),
        };
        Err(self.refuse(&format!(
            "carries the deliveries of another ledger: its key `{key}` names {owner}, the database {} is {}. On one Redis they would take deliveries from each other. Use another database number or key prefix for this one; or, if the other ledger is gone for good, stop everything that uses it and delete the key: redis-cli {number}DEL {key}",
            self.place,
            self.ledger
        )))
    }

    /// Why a connection could not be made.
    pub(crate) fn failed(&self, error: RedisError) -> Error {
        match hopeless(&error, self.database) {
            // Redis replies with advice for programmers of clients.
            Some(why) if error.code() == Some("NOAUTH") => self.refuse(&why),
            Some(why) => self.refuse(&why).caused_by(error),
            None => Error::unavailable("Redis is away").caused_by(error),
        }
    }

    fn refuse(&self, why: &str) -> Error {
        let kind = if self.once.load(Ordering::Acquire) {
            Kind::Unavailable
        } else {
            Kind::Invalid
        };
        Error::new(kind, format!("{} {why}", self.server))
    }

    fn warn_of_eviction(&self, info: &Info) {
        let policy = info.field("maxmemory_policy").unwrap_or("noeviction");
        let mut warned = self.warned.lock();
        if policy == "noeviction" || warned.as_deref() == Some(policy) {
            return;
        }
        tracing::warn!(server = %self.server, policy, "Redis may evict events when its memory is full: set its maxmemory-policy to noeviction");
        *warned = Some(policy.to_owned());
    }
}

/// A call of the script `claim`.
pub(crate) struct Claim {
    key: String,
    ledger: String,
}

impl Claim {
    pub(crate) fn call(&self) -> script::Call<'_> {
        script::Call {
            script: &script::CLAIM,
            keys: vec![&self.key],
            args: vec![&self.ledger],
        }
    }

    fn whole(&self) -> redis::Cmd {
        self.call().whole()
    }
}

/// The reason why a server cannot be used, in words that follow its address.
fn unfit(info: &Info) -> Option<String> {
    // Redis says `redis_mode`, Valkey `server_mode`.
    let mode = info.field("redis_mode").or(info.field("server_mode"));
    match mode {
        Some("cluster") => return Some(CLUSTER.to_owned()),
        Some("sentinel") => {
            return Some(
                "is a Sentinel, which stores nothing: this version does not ask Sentinels. Write the address of the primary itself".to_owned(),
            );
        }
        _ => {}
    }
    if let Some(version) = info.field("redis_version")
        && is_too_old(version)
    {
        return Some(format!(
            "is version {version}: Redis 6.2 or newer, or Valkey, is needed"
        ));
    }
    if matches!(info.field("role"), Some("slave" | "replica")) {
        let of = match (info.field("master_host"), info.field("master_port")) {
            (Some(host), Some(port)) => format!(" of {host}:{port}"),
            _ => String::new(),
        };
        return Some(format!(
            "is a replica{of}, which takes no writes: write the address of the primary"
        ));
    }
    None
}

const CLUSTER: &str = "is a node of a Redis Cluster: this version works with one Redis or Valkey server. Start one without cluster-enabled, and write its address";

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false, // another way to count
    }
}

/// Why no connection with these settings will ever be made, where that is certain.
fn hopeless(error: &RedisError, database: i64) -> Option<String> {
    let text = error.to_string();
    if text.contains("cluster mode") {
        return Some(CLUSTER.to_owned());
    }
    if text.contains("refused to switch database") {
        if text.contains("DB index") {
            return Some(format!(
                "has no database {database}: most servers have 0 to 15, some only 0"
            ));
        }
        if text.contains("unknown command") {
            return Some(format!(
                "has no numbered databases, and {database} is set: is it a Sentinel?"
            ));
        }
    }
    if error.kind() == ErrorKind::RESP3NotSupported {
        return Some("does not know HELLO: Redis 6.2 or newer, or Valkey, is needed".to_owned());
    }
    if error.code() == Some("NOAUTH") {
        return Some("requires a password, and none is set".to_owned());
    }
    let refused = matches!(error.code(), Some("WRONGPASS" | "NOPERM"));
    if refused || error.kind() == ErrorKind::AuthenticationFailed {
        return Some("refuses this user or password".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(info: &str) -> Option<String> {
        unfit(&Info::of(info))
    }

    #[test]
    fn a_single_primary_is_fit_whatever_else_it_says() {
        for info in [
            "redis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master",
            "redis_version:6.2.0\r\nredis_mode:standalone\r\nrole:master",
            "redis_version:7.2.4\r\nserver_name:valkey\r\nserver_mode:standalone\r\nrole:master",
            "redis_version:df-1\r\nrole:master",
            "",
        ] {
            assert_eq!(judged(info), None, "{info}");
        }
    }

    #[test]
    fn every_server_that_this_version_does_not_work_with_is_named() {
        for (info, word) in [
            ("redis_mode:cluster", "Cluster"),
            ("server_mode:cluster", "Cluster"),
            ("redis_mode:sentinel", "Sentinel"),
            ("server_mode:sentinel", "Sentinel"),
            (
                "role:slave\r\nmaster_host:ten\r\nmaster_port:1",
                "replica of ten:1",
            ),
            ("role:replica", "replica"),
            ("redis_version:6.0.16\r\nrole:master", "6.0.16"),
            ("redis_version:5.0.7", "6.2"),
        ] {
            let why = judged(info).unwrap_or_default();
            assert!(why.contains(word), "{info}: {why}");
        }
    }
}
