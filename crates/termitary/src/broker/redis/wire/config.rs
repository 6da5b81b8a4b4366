//! Address and settings of Redis.

use std::fmt;
use std::time::Duration;

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
};

use super::address;
use super::keys::{self, Keys};
use crate::broker::DEFAULT_LEASE;
use crate::clock::minutes;
use crate::error::Error;

const DEFAULT_PORT: u16 = 6379;

/// Address and settings of a Redis or Valkey server (6.2 or newer).
///
/// ```
/// # use termitary::broker::{Bridge, RedisConfig};
/// let config = RedisConfig::parse("rediss://:pass%40word@redis.example:6380/1")?.bridge(Bridge::In);
/// assert_eq!(config.to_string(), "rediss://redis.example:6380/1");
/// # Ok::<(), termitary::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    host: String,
    port: u16,
    username: Option<String>,
    password: Option<String>,
    database: i64,
    tls: bool,
    lease: Duration,
    reconcile_after: Option<Duration>,
    bridge: Bridge,
    prefix: String,
}

/// Directions in which plain Redis pub/sub of other programs is bridged to events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bridge {
    /// Neither.
    #[default]
    Off,
    /// `PUBLISH todos.created '{…}'` from any program becomes one event.
    In,
    /// Every event is also published on the channel of its name.
    Out,
    /// Both; our own outgoing messages do not come in again.
    Both,
}

impl Bridge {
    pub(crate) fn takes_in(self) -> bool {
        matches!(self, Self::In | Self::Both)
    }

    pub(crate) fn sends_out(self) -> bool {
        matches!(self, Self::Out | Self::Both)
    }
}

impl std::str::FromStr for Bridge {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "off" => Ok(Self::Off),
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            "both" => Ok(Self::Both),
            other => Err(Error::invalid(format!(
                "the bridge is off, in, out or both, not `{other}`"
            ))),
        }
    }
}

impl RedisConfig {
    /// A server by host name or address and port.
    pub fn host(host: impl Into<String>, port: u16) -> Self {
        let host: String = host.into();
        Self {
            host: address::without_brackets(&host).to_owned(),
            port,
            username: None,
            password: None,
            database: 0,
            tls: false,
            lease: DEFAULT_LEASE,
            reconcile_after: None,
            bridge: Bridge::Off,
            prefix: keys::PREFIX.to_owned(),
        }
    }

    /// A server by URL: `redis://[user[:password]@]host[:port][/database]`, or `rediss://…` with
    /// TLS. Percent-encode special characters.
    ///
    /// # Errors
    /// `is_invalid()` if anything in it cannot be used or is not understood: nothing
    /// that it says is ignored. A user may still be without a password, which
    /// [`RedisConfig::password`] then gives.
    pub fn parse(url: &str) -> Result<Self, Error> {
        address::parse(url)
    }

    /// The user name (default: the server's default user).
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The numbered database (default: 0).
    pub fn database(mut self, database: i64) -> Self {
        self.database = database;
        self
    }

    /// Turns TLS on, with the system's root certificates (default: off).
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the directions of the bridge to plain pub/sub (default: none).
    pub fn bridge(mut self, bridge: Bridge) -> Self {
        self.bridge = bridge;
        self
    }

    /// Sets the prefix of every key and of the broadcasts' channel (default: `termitary`): systems
    /// with different prefixes can share a server. Every process of one system must use the same
    /// one. It has 1 to 64 letters, digits, dots, colons, `-` and `_`; an invalid one is refused
    /// when the broker is created.
    ///
    /// The channels of the [`Bridge`] have no prefix: they are other programs'.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    pub(crate) fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the time after which the ledger checks whether Redis still has a delivery that was
    /// handed to it (default: a minute, or twice the lease if that is longer).
    pub fn reconcile_after(mut self, wait: Duration) -> Self {
        self.reconcile_after = Some(wait);
        self
    }

    /// Returns an error if these settings can work with no server; [`Broker::redis`] checks this
    /// too.
    ///
    /// [`Broker::redis`]: crate::Broker::redis
    ///
    /// # Errors
    /// `is_invalid()`, with the reason.
    pub fn check(&self) -> Result<(), Error> {
        self.check_address()?;
        self.keys()?;
        if self.username.is_some() && self.password.is_none() {
            return Err(Error::invalid(
                "a Redis user is set without a password, and would be ignored: set both (redis://user:password@host); a password alone is redis://:password@host",
            ));
        }
        Ok(())
    }

    pub(crate) fn check_address(&self) -> Result<(), Error> {
        if let Some(why) = address::unusable_host(&self.host) {
            return Err(Error::invalid(format!(
                "the Redis host cannot be used: {why}"
            )));
        }
        if self.port == 0 {
            return Err(Error::invalid(
                "no Redis listens on port 0: write a port from 1 to 65535, such as 6379",
            ));
        }
        if u32::try_from(self.database).is_err() {
            return Err(Error::invalid(format!(
                "Redis has no database {}: write a number such as 0",
                self.database
            )));
        }
        Ok(())
    }

    pub(crate) fn database_number(&self) -> i64 {
        self.database
    }

    pub(crate) fn lease_time(&self) -> Duration {
        self.lease
    }

    pub(crate) fn reconcile_time(&self) -> Duration {
        self.reconcile_after
            .unwrap_or_else(|| (self.lease * 2).max(minutes(1)))
    }

    pub(crate) fn keys(&self) -> Result<Keys, Error> {
        Keys::new(&self.prefix)
    }

    pub(crate) fn bridge_mode(&self) -> Bridge {
        self.bridge
    }

    /// Address and user for another client on this server. The value contains the password. Fails
    /// if the address is invalid.
    // Parts go in by value: a password with an `@` needs no care here.
    pub fn connection_info(&self) -> Result<ConnectionInfo, Error> {
        let addr = if self.tls {
            ConnectionAddr::TcpTls {
                host: self.host.clone(),
                port: self.port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(self.host.clone(), self.port)
        };
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("termitary", env!("CARGO_PKG_VERSION"))
            .set_db(self.database);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info = addr
            .into_connection_info()
            .map_err(|error| Error::invalid("the Redis address cannot be used").caused_by(error))?;
        Ok(info.set_redis_settings(settings))
    }
}

/// The address without user and password.
impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        write!(f, "{scheme}://{host}")?;
        if self.port != DEFAULT_PORT {
            write!(f, ":{}", self.port)?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("server", &self.to_string())
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .field("lease", &self.lease)
            .field("reconcile_after", &self.reconcile_time())
            .field("bridge", &self.bridge)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_printed_without_its_password() {
        let config = RedisConfig::parse("redis://ada:s%40crt@example.org:7000/3")
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.password.as_deref(), Some("s@crt"));
        assert_eq!(config.username.as_deref(), Some("ada"));
        assert_eq!(config.to_string(), "redis://example.org:7000/3");
        assert!(!format!("{config:?}").contains("s@crt"));
    }

    #[test]
    fn an_unreadable_url_is_refused_without_quoting_it() {
        for bad in [
            "http://:secret@h",
            "redis://:secret@h:port",
            "redis://:secret@h/db",
            "secret",
            "redis://:secret@/",
        ] {
            let Err(error) = RedisConfig::parse(bad) else {
                panic!("{bad}")
            };
            assert!(
                error.is_invalid() && !format!("{error:?}").contains("secret"),
                "{error:?}"
            );
        }
    }
}
