//! Redis, from its URL or from its parts. Each given setting is used or refused with an
//! error.

use std::num::NonZeroU16;

use termitary::broker::{Bridge, RedisConfig};

use super::variables::Variables;
use super::{Mistake, redact};

/// The configured Redis; `None` if events travel in the database.
pub(super) fn redis(set: &Variables) -> Result<Option<RedisConfig>, Mistake> {
    let bridge = set.choice(
        "TERMITARY_PUBSUB_BRIDGE",
        &[
            ("off", Bridge::Off),
            ("in", Bridge::In),
            ("out", Bridge::Out),
            ("both", Bridge::Both),
        ],
    )?;
    let url = set.secret("REDIS_URL")?;
    let parts = Parts::read(set)?;
    let redis = match url {
        Some(url) => Some(of_url(&url, &parts)?),
        None => of_parts(set, &parts)?,
    };
    let Some(redis) = redis else { return Ok(None) };
    Ok(Some(redis.bridge(bridge.unwrap_or(Bridge::In))))
}

/// The settings beside a URL, or beside REDIS_HOST and REDIS_PORT.
struct Parts {
    username: Option<String>,
    password: Option<String>,
    database: Option<i64>,
    tls: Option<bool>,
}

impl Parts {
    fn read(set: &Variables) -> Result<Self, Mistake> {
        let database: Option<u32> =
            set.parsed("REDIS_DB", "the number of a database, such as 0")?;
        Ok(Self {
            username: set.get("REDIS_USERNAME").map(str::to_owned),
            password: set.secret("REDIS_PASSWORD")?,
            database: database.map(i64::from),
            tls: set.choice("REDIS_TLS", YES_OR_NO)?,
        })
    }
}

const YES_OR_NO: &[(&str, bool)] = &[
    ("true", true),
    ("1", true),
    ("yes", true),
    ("on", true),
    ("false", false),
    ("0", false),
    ("no", false),
    ("off", false),
];

/// The server of the URL; the parts give the user, password and database that it leaves
/// out.
fn of_url(url: &str, parts: &Parts) -> Result<RedisConfig, Mistake> {
    let bad = |error: termitary::Error| Mistake::of("REDIS_URL", &redact(url), &error.to_string());
    let mut redis = RedisConfig::parse(url).map_err(bad)?;
    let info = redis.connection_info().map_err(bad)?;
    let said = info.redis_settings();
    let twice = |name: &str| {
        Mistake::new(format!(
            "REDIS_URL and {name} contradict each other: unset {name}, or leave that part out of REDIS_URL"
        ))
    };
    match (said.username(), &parts.username) {
        (Some(one), Some(other)) if one != other => return Err(twice("REDIS_USERNAME")),
        (None, Some(username)) => redis = redis.username(username),
        _ => {}
    }
    match (said.password(), &parts.password) {
        (Some(one), Some(other)) if one != other => return Err(twice("REDIS_PASSWORD")),
        (None, Some(password)) => redis = redis.password(password),
        _ => {}
    }
    match (names_database(url), parts.database) {
        (true, Some(database)) if database != said.db() => return Err(twice("REDIS_DB")),
        (false, Some(database)) => redis = redis.database(database),
        _ => {}
    }
    let tls = ["rediss", "valkeys"].contains(&&*scheme(url).to_ascii_lowercase());
    if parts.tls.is_some_and(|wanted| wanted != tls) {
        return Err(Mistake::new(format!(
            "REDIS_TLS says {}, but REDIS_URL begins with {}://: write rediss:// for TLS and redis:// for none, and unset REDIS_TLS",
            if tls { "no" } else { "yes" },
            scheme(url)
        )));
    }
    redis.check().map_err(bad)?;
    Ok(redis)
}

fn scheme(url: &str) -> &str {
    url.split("://").next().unwrap_or_default()
}

/// Returns true if a readable URL has a path.
fn names_database(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_once('/')
        .is_some_and(|(_, path)| !path.is_empty())
}

fn of_parts(set: &Variables, parts: &Parts) -> Result<Option<RedisConfig>, Mistake> {
    let port: Option<NonZeroU16> =
        set.parsed("REDIS_PORT", "a number from 1 to 65535, such as 6379")?;
    let Some(host) = set.get("REDIS_HOST").or(port.map(|_| "127.0.0.1")) else {
        return no_server(parts);
    };
    let mut redis = RedisConfig::host(host, port.map_or(6379, NonZeroU16::get));
    redis
        .check()
        .map_err(|error| Mistake::of("REDIS_HOST", &redact(host), &error.to_string()))?;
    redis = redis.tls(parts.tls.unwrap_or(false));
    if let Some(password) = &parts.password {
        redis = redis.password(password);
    }
    if let Some(username) = &parts.username {
        redis = redis.username(username);
    }
    if let Some(database) = parts.database {
        redis = redis.database(database);
    }
    redis.check().map_err(|_| {
        Mistake::new("REDIS_USERNAME is set without REDIS_PASSWORD, so Redis would ignore the user. Set both")
    })?;
    Ok(Some(redis))
}

/// Refuses settings of a Redis without a server.
fn no_server(parts: &Parts) -> Result<Option<RedisConfig>, Mistake> {
    let set = [
        ("REDIS_PASSWORD", parts.password.is_some()),
        ("REDIS_USERNAME", parts.username.is_some()),
        ("REDIS_DB", parts.database.is_some_and(|number| number > 0)),
        ("REDIS_TLS", parts.tls == Some(true)),
    ];
    match set.iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => Err(Mistake::new(format!(
            "{name} is set, but no Redis: set REDIS_HOST or REDIS_URL too, or unset it to run without Redis"
        ))),
        None => Ok(None),
    }
}
