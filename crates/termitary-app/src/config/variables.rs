//! Every setting, as a flag, the environment or `.env` gives it: text that is not yet
//! checked. One table gives the flags, the variables and the help.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// One setting of the table.
struct Setting {
    variable: &'static str,
    value: &'static str,
    help: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Contains a password. A second variable, `…_FILE`, may name a file with it.
    Secret,
    /// Not in the help.
    Hidden,
}

const fn plain(variable: &'static str, value: &'static str, help: &'static str) -> Setting {
    Setting {
        variable,
        value,
        help,
        kind: Kind::Plain,
    }
}

const fn secret(variable: &'static str, value: &'static str, help: &'static str) -> Setting {
    Setting {
        variable,
        value,
        help,
        kind: Kind::Secret,
    }
}

/// All settings, in the order of the help.
const SETTINGS: &[Setting] = &[
    secret(
        "DATABASE_URL",
        "URL",
        "The database: sqlite:// and a path, or postgres://user:password@host[:port]/database. A missing file is created, a missing PostgreSQL database is not. [default: sqlite://termitary.db]",
    ),
    secret(
        "REDIS_URL",
        "URL",
        "Redis or Valkey, which then carries events between processes: redis://[user[:password]@]host[:port][/db], rediss:// for TLS. Wins over REDIS_HOST and REDIS_PORT; a user, password or database that it leaves out may be set in REDIS_USERNAME, REDIS_PASSWORD, REDIS_DB. [default: none, the database carries events]",
    ),
    plain(
        "REDIS_HOST",
        "HOST",
        "The host of Redis, in place of REDIS_URL.",
    ),
    plain("REDIS_PORT", "PORT", "The port of Redis. [default: 6379]"),
    plain(
        "REDIS_USERNAME",
        "NAME",
        "The user of Redis. [default: the server's default user]",
    ),
    secret(
        "REDIS_PASSWORD",
        "PASSWORD",
        "The password of Redis. Not as a flag, which other users could read.",
    ),
    plain(
        "REDIS_DB",
        "NUMBER",
        "The number of the Redis database. [default: 0]",
    ),
    plain(
        "REDIS_TLS",
        "BOOL",
        "Use TLS with Redis: true or false. [default: false]",
    ),
    plain(
        "HOST",
        "ADDRESS",
        "The address that the API listens on. [default: 127.0.0.1]",
    ),
    plain(
        "PORT",
        "PORT",
        "The port that the API listens on. [default: 3000]",
    ),
    secret(
        "SMTP_URL",
        "URL",
        "The mail server: smtp://host:25, smtps://user:password@host, or smtp://user:password@host:587?tls=required. [default: none, mail is written as .eml files into MAIL_DIR]",
    ),
    plain(
        "MAIL_DIR",
        "FOLDER",
        "The folder for mail without SMTP_URL; created when needed. [default: mail]",
    ),
    plain(
        "TERMITARY_MAIL_FROM",
        "SENDER",
        "The sender of mail. [default: Termitary <termitary@localhost>]",
    ),
    plain(
        "TERMITARY_PUBLIC_URL",
        "URL",
        "The address that links in mail start with. [default: http://HOST:PORT]",
    ),
    plain(
        "TERMITARY_TRUSTED_PROXIES",
        "NUMBER",
        "The number of reverse proxies in front of the API: this many entries at the end of X-Forwarded-For are trusted. Without it all clients behind a proxy count as one source. [default: 0]",
    ),
    secret(
        "TERMITARY_SECRET",
        "SECRET",
        "At least 32 random characters, the same for every API process: responses kept for Idempotency-Key are sealed with it. A change only loses those. [default: generated into a file beside the database, such as termitary.db.secret; with PostgreSQL into the database]",
    ),
    plain(
        "TERMITARY_CORS_ORIGINS",
        "ORIGINS",
        "Pages of these origins may call the API from a browser: https://app.example.com, several with commas. [default: none]",
    ),
    plain(
        "TERMITARY_CONNECTIONS",
        "NUMBER",
        "The most connections to one API process; more wait. Lower if the process may not open as many files. [default: 4096]",
    ),
    plain(
        "TERMITARY_CONNECTIONS_PER_ADDRESS",
        "NUMBER",
        "The most connections from one address, or one /64 of IPv6; more are refused. Ignored behind proxies (TERMITARY_TRUSTED_PROXIES), whose address all connections have. [default: 512]",
    ),
    plain(
        "TERMITARY_KEEP_ALIVE",
        "TIME",
        "The time that a connection without a request stays open: longer than the balancer in front keeps its own. [default: 75s]",
    ),
    plain(
        "TERMITARY_ACTIVITY_RETENTION",
        "DAYS",
        "The time that entries stay in the activity feed: days such as 400d, or forever. [default: 400d]",
    ),
    plain(
        "TERMITARY_TODOS_PER_USER",
        "NUMBER",
        "The most open todos that one account owns; making more is refused. [default: 10000]",
    ),
    plain(
        "TERMITARY_PUBSUB_BRIDGE",
        "WAY",
        "Plain Redis PUBLISH and SUBSCRIBE for programs without streams: off, in (their messages become events), out (events are published to them) or both. [default: in, if Redis is configured]",
    ),
    plain(
        "TERMITARY_CONCURRENCY",
        "NUMBER",
        "The number of deliveries that a worker runs at once. [default: 64]",
    ),
    plain(
        "TERMITARY_SHUTDOWN_GRACE",
        "TIME",
        "The time that running work may take to finish after SIGTERM or Ctrl-C: 25s, 2m. [default: 25s]",
    ),
    plain(
        "TERMITARY_ENV",
        "NAME",
        "development or production; production logs JSON if there is no terminal. [default: development]",
    ),
    plain(
        "RUST_LOG",
        "FILTER",
        "The log filter: error, warn, info, debug, trace, or by module: info,termitary=debug. [default: info; warn for commands that end by themselves]",
    ),
    plain(
        "LOG_FORMAT",
        "FORMAT",
        "pretty or json; logs go to stderr. [default: pretty]",
    ),
    // For tests: the time that the work of a dead worker waits. Every process of one
    // system must agree on it.
    Setting {
        variable: "TERMITARY_LEASE",
        value: "TIME",
        help: "The lease of a delivery.",
        kind: Kind::Hidden,
    },
];

/// The name of a setting for clap, and its flag with `_` for `-`.
fn id(variable: &str) -> String {
    let name = variable.strip_prefix("TERMITARY_").unwrap_or(variable);
    name.to_ascii_lowercase()
}

/// The variables of the settings that contain a password, with their names for clap.
pub(crate) fn secrets() -> impl Iterator<Item = (&'static str, String)> {
    let secrets = SETTINGS.iter().filter(|it| it.kind == Kind::Secret);
    secrets.map(|setting| (setting.variable, id(setting.variable)))
}

/// Returns true for the variable of a setting, also of one that the help does not show.
pub(crate) fn knows(variable: &str) -> bool {
    all().any(|(known, ..)| known == variable)
}

/// All variables: their name, value name, help and kind. Secrets have a second one that
/// names a file.
fn all() -> impl Iterator<Item = (String, &'static str, String, Kind)> {
    SETTINGS.iter().flat_map(|setting| {
        let Setting {
            variable,
            value,
            help,
            kind,
        } = *setting;
        let file = (kind == Kind::Secret).then(|| {
            let help = format!("A file that contains {variable}.");
            (format!("{variable}_FILE"), "FILE", help, Kind::Plain)
        });
        [(variable.to_owned(), value, help.to_owned(), kind)]
            .into_iter()
            .chain(file)
    })
}

/// The text of each setting that is set, by its variable. An empty text means "not set".
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The text of a setting, unless it is empty.
    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        let text = self.0.get(variable)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// Replaces each empty text, which counts as not set, by the text of the next source.
    pub(crate) fn or_next(mut self, next: impl Fn(&str) -> Option<String>) -> Self {
        for (variable, text) in &mut self.0 {
            if text.trim().is_empty() {
                *text = next(variable).unwrap_or_default();
            }
        }
        self
    }

    /// Removes a setting whose text fits, and returns true if it did.
    pub(super) fn remove_if(&mut self, variable: &str, fits: impl FnOnce(&str) -> bool) -> bool {
        self.get(variable).is_some_and(fits) && self.0.remove(variable).is_some()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Variables {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(set: T) -> Self {
        let set = set.into_iter();
        Self(set.map(|(name, text)| (name.into(), text.into())).collect())
    }
}

impl Args for Variables {
    fn augment_args(command: Command) -> Command {
        command.args(all().map(|(variable, value, help, kind)| {
            Arg::new(id(&variable))
                .long(id(&variable).replace('_', "-"))
                .env(variable)
                .value_name(value)
                .help(help)
                .global(true)
                .hide(true)
                .hide_env_values(kind == Kind::Secret)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Variables {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let set = all().filter_map(|(variable, ..)| {
            let text = matches.get_one::<String>(&id(&variable))?.clone();
            Some((variable, text))
        });
        Ok(Self(set.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// One documented setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// The environment variable.
    pub variable: String,
    /// The flag, without dashes.
    pub flag: String,
    /// One sentence and the default.
    pub help: String,
}

/// A variable of the environment, unless it is empty, which counts as not set.
pub(crate) fn in_environment(variable: &str) -> Option<String> {
    let set = std::env::var(variable).ok();
    set.filter(|text| !text.trim().is_empty())
}

/// All documented settings, in the order of the help.
pub fn documented() -> Vec<Documented> {
    let shown = all().filter(|(_, _, _, kind)| *kind != Kind::Hidden);
    shown
        .map(|(variable, _, help, _)| Documented {
            flag: id(&variable).replace('_', "-"),
            variable,
            help,
        })
        .collect()
}
