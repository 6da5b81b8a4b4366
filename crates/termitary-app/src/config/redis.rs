//! Redis, from its URL or from its parts. Each setting that is given is used, or is
//! refused in a sentence.

use std::num::NonZeroU16;

use termitary::broker::{Bridge, RedisConfig};

use super::settings::Settings;
use super::values::{choice, parsed, secret, set};
use super::{Mistake, redact};

/// Where Redis is and how it is used; none where events travel in the database.
pub(super) fn redis(s: &Settings) -> Result<Option<RedisConfig>, Mistake> {
    let bridge = choice(
        "TERMITARY_PUBSUB_BRIDGE",
        s.pubsub_bridge.as_deref(),
        &[
            ("off", Bridge::Off),
            ("in", Bridge::In),
            ("out", Bridge::Out),
            ("both", Bridge::Both),
        ],
    )?;
    let url = secret(
        "REDIS_URL",
        s.redis_url.as_deref(),
        s.redis_url_file.as_deref(),
    )?;
    let parts = Parts::read(s)?;
    let redis = match url {
        Some(url) => Some(of_url(&url, &parts)?),
        None => of_parts(s, &parts)?,
    };
    let Some(redis) = redis else { return Ok(None) };
    Ok(Some(redis.bridge(bridge.unwrap_or(Bridge::In))))
}

/// What may stand beside a URL, or beside REDIS_HOST and REDIS_PORT, the way the
/// original service is configured.
struct Parts {
    username: Option<String>,
    password: Option<String>,
    database: Option<i64>,
    tls: Option<bool>,
}

impl Parts {
    fn read(s: &Settings) -> Result<Self, Mistake> {
        let database: Option<u32> = parsed(
            "REDIS_DB",
            s.redis_db.as_deref(),
            "the number of a database, such as 0",
        )?;
        Ok(Self {
            username: set(s.redis_username.as_deref()).map(str::to_owned),
            password: secret(
                "REDIS_PASSWORD",
                s.redis_password.as_deref(),
                s.redis_password_file.as_deref(),
            )?,
            database: database.map(i64::from),
            tls: choice("REDIS_TLS", s.redis_tls.as_deref(), YES_OR_NO)?,
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

/// The URL names the server; what it leaves open of user, password and database, the
/// parts say.
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

/// Whether a readable URL has something behind its host.
fn names_database(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_once('/')
        .is_some_and(|(_, path)| !path.is_empty())
}

fn of_parts(s: &Settings, parts: &Parts) -> Result<Option<RedisConfig>, Mistake> {
    let port: Option<NonZeroU16> = parsed(
        "REDIS_PORT",
        s.redis_port.as_deref(),
        "a number from 1 to 65535, such as 6379",
    )?;
    let Some(host) = set(s.redis_host.as_deref()).or(port.map(|_| "127.0.0.1")) else {
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
        Mistake::new("REDIS_USERNAME is set without REDIS_PASSWORD: Redis would not be told the user. Set both")
    })?;
    Ok(Some(redis))
}

/// What belongs to a Redis, but no Redis.
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
