//! Every setting, as it comes from a flag, the environment or `.env`: text,
//! not yet judged. One definition gives the flags, the variables and the help.
#![expect(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "these comments are the program's help, where brackets are brackets and addresses stand bare"
)]

use clap::Args;

/// The settings; see [`Config`](super::Config) for what becomes of them.
///
/// All are text here, so that an empty variable can mean "not set" and every
/// mistake is reported in the same words.
#[derive(Args, Clone, Default)]
pub struct Settings {
    /// Where the data lives: sqlite:// and a path. Created where missing. [default: sqlite://termitary.db]
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        global = true,
        hide = true,
        hide_env_values = true
    )]
    pub database_url: Option<String>,

    /// A file that holds DATABASE_URL.
    #[arg(
        long,
        env = "DATABASE_URL_FILE",
        value_name = "FILE",
        global = true,
        hide = true
    )]
    pub database_url_file: Option<String>,

    /// Redis or Valkey, which then carries events between processes: redis://[user[:password]@]host[:port][/db], rediss:// for TLS. Wins over REDIS_HOST and REDIS_PORT; a user, password or database that it leaves out may stand in REDIS_USERNAME, REDIS_PASSWORD, REDIS_DB. [default: none, the database carries them]
    #[arg(
        long,
        env = "REDIS_URL",
        value_name = "URL",
        global = true,
        hide = true,
        hide_env_values = true
    )]
    pub redis_url: Option<String>,

    /// A file that holds REDIS_URL.
    #[arg(
        long,
        env = "REDIS_URL_FILE",
        value_name = "FILE",
        global = true,
        hide = true
    )]
    pub redis_url_file: Option<String>,

    /// The host of Redis, in place of REDIS_URL.
    #[arg(
        long,
        env = "REDIS_HOST",
        value_name = "HOST",
        global = true,
        hide = true
    )]
    pub redis_host: Option<String>,

    /// The port of Redis. [default: 6379]
    #[arg(
        long,
        env = "REDIS_PORT",
        value_name = "PORT",
        global = true,
        hide = true
    )]
    pub redis_port: Option<String>,

    /// The user of Redis. [default: the server's default user]
    #[arg(
        long,
        env = "REDIS_USERNAME",
        value_name = "NAME",
        global = true,
        hide = true
    )]
    pub redis_username: Option<String>,

    /// The password of Redis. Not as a flag: others could read it.
    #[arg(
        long,
        env = "REDIS_PASSWORD",
        value_name = "PASSWORD",
        global = true,
        hide = true,
        hide_env_values = true
    )]
    pub redis_password: Option<String>,

    /// A file that holds REDIS_PASSWORD.
    #[arg(
        long,
        env = "REDIS_PASSWORD_FILE",
        value_name = "FILE",
        global = true,
        hide = true
    )]
    pub redis_password_file: Option<String>,

    /// The number of the Redis database. [default: 0]
    #[arg(
        long,
        env = "REDIS_DB",
        value_name = "NUMBER",
        global = true,
        hide = true
    )]
    pub redis_db: Option<String>,

    /// Whether to speak TLS with Redis: true or false. [default: false]
    #[arg(
        long,
        env = "REDIS_TLS",
        value_name = "BOOL",
        global = true,
        hide = true
    )]
    pub redis_tls: Option<String>,

    /// The address that the API listens on. [default: 127.0.0.1]
    #[arg(long, env = "HOST", value_name = "ADDRESS", global = true, hide = true)]
    pub host: Option<String>,

    /// The port that the API listens on. [default: 3000]
    #[arg(long, env = "PORT", value_name = "PORT", global = true, hide = true)]
    pub port: Option<String>,

    /// The mail server: smtp://host:25, smtps://user:password@host, or smtp://user:password@host:587?tls=required. [default: none, mail becomes .eml files in MAIL_DIR]
    #[arg(
        long,
        env = "SMTP_URL",
        value_name = "URL",
        global = true,
        hide = true,
        hide_env_values = true
    )]
    pub smtp_url: Option<String>,

    /// A file that holds SMTP_URL.
    #[arg(
        long,
        env = "SMTP_URL_FILE",
        value_name = "FILE",
        global = true,
        hide = true
    )]
    pub smtp_url_file: Option<String>,

    /// The folder for mail where there is no SMTP_URL; created when needed. [default: mail]
    #[arg(
        long,
        env = "MAIL_DIR",
        value_name = "FOLDER",
        global = true,
        hide = true
    )]
    pub mail_dir: Option<String>,

    /// Who mail comes from. [default: Termitary <termitary@localhost>]
    #[arg(
        long,
        env = "TERMITARY_MAIL_FROM",
        value_name = "SENDER",
        global = true,
        hide = true
    )]
    pub mail_from: Option<String>,

    /// The address that links in mail begin with. [default: http://HOST:PORT]
    #[arg(
        long,
        env = "TERMITARY_PUBLIC_URL",
        value_name = "URL",
        global = true,
        hide = true
    )]
    pub public_url: Option<String>,

    /// How many reverse proxies stand in front of the API: so many entries of X-Forwarded-For are believed, from its end. Without it everybody behind a proxy counts as one source. [default: 0]
    #[arg(
        long,
        env = "TERMITARY_TRUSTED_PROXIES",
        value_name = "NUMBER",
        global = true,
        hide = true
    )]
    pub trusted_proxies: Option<String>,

    /// At least 32 random characters, the same for every API process: answers kept for Idempotency-Key are sealed with it. Changing it only forgets those. [default: generated into a file beside the database, such as termitary.db.secret]
    #[arg(
        long,
        env = "TERMITARY_SECRET",
        value_name = "SECRET",
        global = true,
        hide = true,
        hide_env_values = true
    )]
    pub secret: Option<String>,

    /// A file that holds TERMITARY_SECRET.
    #[arg(
        long,
        env = "TERMITARY_SECRET_FILE",
        value_name = "FILE",
        global = true,
        hide = true
    )]
    pub secret_file: Option<String>,

    /// Pages of these origins may call the API from a browser: https://app.example.com, several with commas. [default: none]
    #[arg(
        long,
        env = "TERMITARY_CORS_ORIGINS",
        value_name = "ORIGINS",
        global = true,
        hide = true
    )]
    pub cors_origins: Option<String>,

    /// The most connections to one API process; more wait. Fewer where the process may not open so many files. [default: 4096]
    #[arg(
        long,
        env = "TERMITARY_CONNECTIONS",
        value_name = "NUMBER",
        global = true,
        hide = true
    )]
    pub connections: Option<String>,

    /// The most connections from one address, or one /64 of IPv6; more are refused. Not used behind proxies (TERMITARY_TRUSTED_PROXIES), whose address all connections have. [default: 512]
    #[arg(
        long,
        env = "TERMITARY_CONNECTIONS_PER_ADDRESS",
        value_name = "NUMBER",
        global = true,
        hide = true
    )]
    pub connections_per_address: Option<String>,

    /// How long a connection without a request stays open: longer than the balancer in front keeps its own. [default: 75s]
    #[arg(
        long,
        env = "TERMITARY_KEEP_ALIVE",
        value_name = "TIME",
        global = true,
        hide = true
    )]
    pub keep_alive: Option<String>,

    /// How long entries stay in the activity feed: days such as 400d, or forever. [default: 400d]
    #[arg(
        long,
        env = "TERMITARY_ACTIVITY_RETENTION",
        value_name = "DAYS",
        global = true,
        hide = true
    )]
    pub activity_retention: Option<String>,

    /// Plain Redis PUBLISH and SUBSCRIBE for programs that use nothing else: off, in (what they publish becomes an event), out (events are published to them) or both. [default: in, where Redis is configured]
    #[arg(
        long,
        env = "TERMITARY_PUBSUB_BRIDGE",
        value_name = "WAY",
        global = true,
        hide = true
    )]
    pub pubsub_bridge: Option<String>,

    /// How many deliveries a worker runs at once. [default: 64]
    #[arg(
        long,
        env = "TERMITARY_CONCURRENCY",
        value_name = "NUMBER",
        global = true,
        hide = true
    )]
    pub concurrency: Option<String>,

    /// How long running work may take to finish after SIGTERM or Ctrl-C: 25s, 2m. [default: 25s]
    #[arg(
        long,
        env = "TERMITARY_SHUTDOWN_GRACE",
        value_name = "TIME",
        global = true,
        hide = true
    )]
    pub shutdown_grace: Option<String>,

    /// development or production; production logs as JSON where there is no terminal. [default: development]
    #[arg(
        long,
        env = "TERMITARY_ENV",
        value_name = "NAME",
        global = true,
        hide = true
    )]
    pub env: Option<String>,

    /// What is logged: error, warn, info, debug, trace, or by module: info,termitary=debug. [default: info; warn for commands that end by themselves]
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "FILTER",
        global = true,
        hide = true
    )]
    pub rust_log: Option<String>,

    /// pretty or json; logs go to stderr. [default: pretty]
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        global = true,
        hide = true
    )]
    pub log_format: Option<String>,

    // For tests: how long a dead worker's work waits. Not documented, because
    // every process of one system must agree on it.
    #[arg(long, env = "TERMITARY_LEASE", global = true, hide = true)]
    pub(crate) lease: Option<String>,
}

/// The settings that hold passwords, by clap's name for them.
pub(crate) const SECRETS: [&str; 5] = [
    "database_url",
    "redis_url",
    "redis_password",
    "smtp_url",
    "secret",
];

/// Settings that help does not mention.
const UNDOCUMENTED: [&str; 1] = ["lease"];

/// One documented setting: its variable, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// The environment variable.
    pub variable: String,
    /// The flag, without dashes.
    pub flag: String,
    /// One sentence and the default.
    pub help: String,
}

/// All documented settings, in the order of help.
pub fn documented() -> Vec<Documented> {
    let command = Settings::augment_args(clap::Command::new("settings"));
    command
        .get_arguments()
        .filter(|arg| !UNDOCUMENTED.contains(&arg.get_id().as_str()))
        .filter_map(|arg| {
            Some(Documented {
                variable: arg.get_env()?.to_str()?.to_owned(),
                flag: arg.get_long()?.to_owned(),
                help: arg.get_help()?.to_string(),
            })
        })
        .collect()
}
