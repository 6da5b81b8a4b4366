//! Checks addresses. Parts that cannot work, or would be ignored, are refused with a message; no
//! message quotes a password.

use std::net::Ipv6Addr;

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::config::RedisConfig;
use crate::error::Error;

/// Reads `redis://[user[:password]@]host[:port][/database]`.
pub(crate) fn parse(url: &str) -> Result<RedisConfig, Error> {
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(unreadable("it has a space or a control character"));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    scheme_is_known(scheme)?;
    let after = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
    nothing_follows(after)?;
    // The parser's own errors may quote the URL, and with it the password.
    let info = url.into_connection_info().map_err(|_| {
        unreadable("check the host, the port, the database number and the encoding of the password")
    })?;
    let (host, port, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
        ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
        _ => return Err(unreadable("it names no host")),
    };
    let settings = info.redis_settings();
    let mut config = RedisConfig::host(host, port)
        .tls(tls)
        .database(settings.db());
    if let Some(username) = settings.username() {
        config = config.username(username);
    }
    if let Some(password) = settings.password() {
        config = config.password(password);
    }
    config.check_address()?;
    Ok(config)
}

fn scheme_is_known(scheme: &str) -> Result<(), Error> {
    let scheme = scheme.to_ascii_lowercase();
    match &*scheme {
        "redis" | "rediss" | "valkey" | "valkeys" => Ok(()),
        other if other.contains("unix") || other.contains("socket") => Err(unreadable(
            "Unix sockets are not supported: write the host and the port that the server listens on",
        )),
        other if other.contains("sentinel") => Err(unreadable(
            "Sentinels are not asked: write the address of the primary itself",
        )),
        other if other.contains("cluster") => Err(unreadable(
            "Redis Cluster is not supported: write the address of a single server",
        )),
        _ => Err(unreadable("it does not begin with redis:// or rediss://")),
    }
}

/// The path is the database number, and nothing may follow it.
fn nothing_follows(after: &str) -> Result<(), Error> {
    if after.contains("#insecure") {
        return Err(unreadable(
            "TLS without checking the certificate is not supported",
        ));
    }
    if let Some((_, query)) = after.split_once('?') {
        let database = |pair: &str| pair.starts_with("db=") || pair.starts_with("database=");
        return Err(unreadable(if query.split('&').any(database) {
            "`?db=` is not understood: write the number of the database as /1 behind the host"
        } else {
            "`?` and what follows it are not understood: leave them out (in a password, write ? as %3F)"
        }));
    }
    if after.contains('#') {
        return Err(unreadable(
            "`#` and what follows it are not understood: leave them out (in a password, write # as %23)",
        ));
    }
    Ok(())
}

/// Why no server can be at this host, where that is certain. A name that is not
/// known now may be known later.
pub(crate) fn unusable_host(host: &str) -> Option<&'static str> {
    if host.is_empty() {
        return Some("it is empty: write the name or the address of one server");
    }
    if host.contains("://") || host.contains('@') {
        return Some("it is a URL, not a host: set the URL instead of the host");
    }
    if is_ip6(host) {
        return None;
    }
    if host.contains(':') {
        return Some("write the host alone: the port is a setting of its own");
    }
    if host.contains(',') {
        return Some("it names several: write the one server that all processes use");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.len() > 255 || !host.chars().all(plain) {
        return Some("it is neither a host name nor an address");
    }
    None
}

/// With the zone that a link-local address may have.
fn is_ip6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

/// An address in the brackets of a URL, without them.
pub(crate) fn without_brackets(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.filter(|inner| is_ip6(inner)).unwrap_or(host)
}

fn unreadable(why: &str) -> Error {
    Error::invalid(format!(
        "the Redis URL is not readable: {why}; the form is redis://[user[:password]@]host[:port][/database]"
    ))
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn refusal(config: Result<RedisConfig, Error>) -> String {
        match config.and_then(|config| config.check().map(|()| config)) {
            Ok(config) => panic!("taken: {config:?}"),
            Err(error) => {
                assert!(error.is_invalid(), "{error:?}");
                format!("{error:?}")
            }
        }
    }

    #[test]
    fn what_a_url_says_is_used_or_refused_and_never_ignored() {
        for (url, reason) in [
            ("secret", "begin with redis://"),
            ("http://:secret@h", "begin with redis://"),
            ("redis:/h", "begin with redis://"),
            ("redis+unix:///secret.sock", "Unix"),
            ("unix:///secret.sock", "Unix"),
            ("redis+socket:///secret.sock", "Unix"),
            ("redis+sentinel://:secret@h/mymaster", "Sentinel"),
            ("redis-cluster://:secret@h", "Cluster"),
            ("redis://:secret@h:port", "port"),
            ("redis://:secret@h:70000", "port"),
            ("redis://:secret@h:0", "port"),
            ("redis://:secret@h/db", "database"),
            ("redis://:secret@h/0/1", "database"),
            ("redis://:secret@h/-1", "database"),
            ("redis://:secret@h/99999999999999999999", "database"),
            ("redis://:secret@h?db=3", "/1"),
            ("redis://:secret@h/?database=3", "/1"),
            ("redis://:secret@h/0?protocol=3", "`?`"),
            ("redis://h?password=secret", "`?`"),
            ("redis://:sec?ret@h", "%3F"),
            ("redis://:sec#ret@h", "%23"),
            ("rediss://:secret@h#insecure", "certificate"),
            ("rediss://:secret@h#secret", "`#`"),
            ("redis://secret@h", "password"),
            ("redis://user:@h", "password"),
            ("redis://:secret@/", "host"),
            ("redis://:secret@", "host"),
            ("redis://:secret@a,b:7000", "several"),
            ("redis://:secret@%2Ftmp", "host"),
            ("redis://:secret@h\n", "control"),
            ("redis://:secret@h ", "space"),
        ] {
            let text = refusal(RedisConfig::parse(url));
            assert!(text.contains(reason), "{url:?}: {text}");
            assert!(!text.contains("secret"), "{url:?}: {text}");
        }
    }

    #[test]
    fn good_urls_say_where_and_as_whom() {
        for (url, shown) in [
            ("redis://h", "redis://h"),
            ("REDIS://h", "redis://h"),
            ("redis://h/", "redis://h"),
            ("redis://h:6379/0", "redis://h"),
            (
                "rediss://u:p@h.example:7000/15",
                "rediss://h.example:7000/15",
            ),
            ("redis://:p@h", "redis://h"),
            ("redis://:@h", "redis://h"),
            ("valkey://h:7000", "redis://h:7000"),
            ("valkeys://h", "rediss://h"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("redis://127.0.0.1", "redis://127.0.0.1"),
        ] {
            let config = RedisConfig::parse(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
            config
                .check()
                .unwrap_or_else(|error| panic!("{url}: {error:?}"));
            assert_eq!(config.to_string(), shown, "{url}");
        }
    }

    #[test]
    fn parts_that_can_never_work_are_refused() {
        let host = |host: &str| Ok(RedisConfig::host(host, 6379));
        for (config, reason) in [
            (host(""), "empty"),
            (host("cache:6379"), "setting of its own"),
            (host("redis://:secret@h"), "URL"),
            (host("user:secret@h"), "URL"),
            (host("a, b"), "several"),
            (host("a b"), "neither"),
            (host("secret\n"), "neither"),
            (host("h/1"), "neither"),
            (Ok(RedisConfig::host("h", 0)), "port"),
            (Ok(RedisConfig::host("h", 1).database(-1)), "database"),
            (Ok(RedisConfig::host("h", 1).database(1 << 40)), "database"),
            (Ok(RedisConfig::host("h", 1).username("secret")), "password"),
            (Ok(RedisConfig::host("h", 1).prefix("a b")), "prefix"),
        ] {
            let text = refusal(config);
            assert!(text.contains(reason), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for good in [
            "h",
            "::1",
            "[::1]",
            "fe80::1%eth0",
            "a_b.example",
            "10.0.0.1",
        ] {
            assert!(RedisConfig::host(good, 1).check().is_ok(), "{good}");
        }
        // Of users without a password any is taken.
        let nopass = RedisConfig::host("h", 1).username("u").password("");
        assert!(nopass.check().is_ok());
    }
}
