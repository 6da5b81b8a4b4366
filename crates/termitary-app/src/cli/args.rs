//! The commands and their arguments, with their help.

use std::fmt::Write as _;

use clap::{Args, Parser, Subcommand};

use crate::config::{Variables, documented};
use termitary_bench::BenchArgs;

/// A team to-do service with durable background work.
///
/// Without a command, runs everything in one process on
/// http://127.0.0.1:3000 (the same as `termitary dev`): the API, a worker and
/// the schedules, with all data in the file termitary.db.
#[derive(Parser)]
#[command(name = "termitary", version, after_help = AFTER, after_long_help = settings_help())]
pub struct Cli {
    #[command(flatten)]
    pub(super) settings: Variables,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

const AFTER: &str =
    "`termitary --help` shows every setting; `termitary COMMAND --help` explains a command.";

/// A command.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the API, a worker and the schedules in one process
    #[command(
        after_help = "Examples:\n  termitary dev\n  PORT=3001 termitary dev\n\nSettings come from the environment or from .env; `termitary --help` lists them."
    )]
    Dev,
    /// Run only the API; events wait until a worker runs
    #[command(
        after_help = "Examples:\n  termitary api\n  HOST=0.0.0.0 PORT=8080 termitary api\n\nStart as many as you need on the same database. Stops on SIGTERM or Ctrl-C: /readyz\nreturns 503, and running requests finish.\n\nSettings come from the environment or from .env; `termitary --help` lists them."
    )]
    Api,
    /// Run a worker: it handles events and runs the schedules
    #[command(
        after_help = "Examples:\n  termitary worker\n  TERMITARY_CONCURRENCY=8 termitary worker\n\nStart as many as you need on the same database, with the same Redis if there is one: each\nevent is handled once per subscription. Stops on SIGTERM or Ctrl-C: it leases nothing new,\nand running handlers may finish within TERMITARY_SHUTDOWN_GRACE.\n\nSettings come from the environment or from .env; `termitary --help` lists them."
    )]
    Worker,
    /// Create the database, or bring it up to this version
    #[command(
        after_help = "The API and the workers also do this when they start.\n\nExample:\n  DATABASE_URL=sqlite:///var/lib/termitary/termitary.db termitary migrate"
    )]
    Migrate(MigrateArgs),
    /// Publish an event by its name and print its id
    #[command(after_help = PUBLISH)]
    Publish(PublishArgs),
    /// Show events as they are published
    #[command(after_help = TAIL)]
    Tail(TailArgs),
    /// Show the event map: every event with its schedules and subscriptions
    #[command(
        after_help = "Examples:\n  termitary events\n  termitary events --json | jq '.[].event'\n\nThe map is part of the program: no database is needed."
    )]
    Events(JsonArgs),
    /// Show pending, running, failed and finished deliveries, and live workers
    #[command(
        after_help = "Examples:\n  termitary status\n  termitary status --json | jq '.subscriptions[] | select(.dead > 0)'\n\nDue: can run now. Dead: given up, see `termitary dead list`. Parked: kept, because\nno code here can read it."
    )]
    Status(JsonArgs),
    /// Examine the database, Redis, workers and schedules for risks
    #[command(after_help = DOCTOR)]
    Doctor(JsonArgs),
    /// Find waiting deliveries that this program would not handle: a gate before a deploy
    #[command(after_help = CHECK)]
    Check(JsonArgs),
    /// Copy a stopped SQLite ledger into an empty PostgreSQL database
    #[command(after_help = MOVE)]
    Move(MoveArgs),
    /// List, replay or drop deliveries that were given up or cannot be read
    Dead(DeadArgs),
    /// List, run, pause or resume schedules
    Schedule(ScheduleArgs),
    /// Drop a subscription that no program has
    Subscription(SubscriptionArgs),
    /// Create and administer users, the first admin included
    User(UserArgs),
    /// Measure the speed of this machine without touching your data
    #[command(after_help = BENCH)]
    Bench(BenchArgs),
    // A worker process that `bench` measures.
    #[command(name = termitary_bench::ROLE, hide = true)]
    BenchWorker,
    /// Check that the API is ready, or that a worker runs on this machine
    #[command(
        after_help = "Examples:\n  termitary health\n  PORT=8080 termitary health --live\n  termitary health --worker\n\nExit code 0: yes. 1: no, or no response within three seconds."
    )]
    Health(HealthArgs),
    /// Print a completion script for your shell
    #[command(
        after_help = "Example:\n  termitary completions bash > ~/.local/share/bash-completion/completions/termitary"
    )]
    Completions(CompletionsArgs),
}

impl Command {
    /// Returns true for a command that runs until a signal stops it.
    pub(super) fn serves(&self) -> bool {
        matches!(self, Self::Dev | Self::Api | Self::Worker)
    }
}

const PUBLISH: &str = r#"Examples:
  termitary publish todos.overdue.check '{"triggeredAt":"2026-01-01T00:00:00Z"}'
  termitary publish todos.created - < todo.json

The event is committed to the database when its id is printed; workers handle it
at once or when one starts. `termitary events` shows the names."#;

const BENCH: &str = "Examples:
  termitary bench
  REDIS_URL=redis://127.0.0.1 termitary bench --transactional
  termitary bench --only publish,drain --events 200000
  termitary bench --json | jq .drain.one.perSecond

--concurrency (TERMITARY_CONCURRENCY) sets the number of events that a worker runs
at once.

Takes about a minute, with the real engine and full durability. Works in a scratch
folder beside the configured database and, with Redis, under a key prefix of its
own: your data is neither read nor changed, and Ctrl-C leaves nothing behind.
Stop other programs, or you measure them too.";

const CHECK: &str = "Examples:
  termitary check
  termitary check --json | jq .obstacles

Run it with the new program on the live database. It decodes every waiting delivery
and changes nothing. Reasons: unhandled (this program has no such subscription),
version, unknown-name, undecodable and unreadable (it would park the delivery).
Exit code 0: it handles all of them. 1: it does not.";

const MOVE: &str = "Examples:
  termitary move --to postgres://app@localhost/shop
  PGPASSWORD=… termitary move --to postgres://app@db.example/shop --json

Stop every process first. Copies what DATABASE_URL names, with all ids, and compares
every row; the file stays as it is. If it is interrupted, run it again: it goes on
where it stopped.";

/// The arguments of `move`.
#[derive(Args)]
pub(super) struct MoveArgs {
    /// The address of an empty PostgreSQL database, without a password
    #[arg(long, value_name = "URL")]
    pub(super) to: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

const DOCTOR: &str = "Examples:
  termitary doctor
  termitary doctor --json | jq '.[] | select(.level == \"risk\")'

Each finding names the work that it puts at risk, and what to do. Changes nothing.
Exit code 0: no risk. 1: at least one.";

/// The arguments of `publish`.
#[derive(Args)]
pub(super) struct PublishArgs {
    /// The event's name, such as todos.created
    pub(super) name: String,
    /// The payload, a JSON object; `-` reads it from stdin
    #[arg(value_name = "JSON")]
    pub(super) payload: String,
    /// Publish a name that this program does not know, for the subscriptions of
    /// another program
    #[arg(long)]
    pub(super) allow_unknown: bool,
    /// Print a JSON object instead of the bare id
    #[arg(long)]
    pub(super) json: bool,
}

const TAIL: &str = "Examples:
  termitary tail
  termitary tail 'todos.*'
  termitary tail --json 'users.*' | jq .data

With --json each line is one event as a CloudEvents 1.0 JSON object. Runs until
Ctrl-C, and shows events that are published after it started.";

/// The arguments of `tail`.
#[derive(Args)]
pub(super) struct TailArgs {
    /// The names to show: `*` stands for any characters, `?` for one
    #[arg(default_value = "*")]
    pub(super) pattern: String,
    /// Print one CloudEvents JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    /// Stop after this number of events
    #[arg(long, value_name = "NUMBER")]
    pub(super) limit: Option<u64>,
}

/// The only argument of several commands.
#[derive(Args)]
pub(super) struct JsonArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `migrate`.
#[derive(Args)]
pub(super) struct MigrateArgs {
    /// Change nothing; exit with 1 if the database is behind this version
    #[arg(long, conflicts_with = "sql")]
    pub(super) check: bool,
    /// Change nothing; print the SQL that brings the ledger to this version
    #[arg(long, conflicts_with = "json")]
    pub(super) sql: bool,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

/// The arguments of `dead`.
#[derive(Args)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    pub(super) command: DeadCommand,
}

/// The commands for dead and parked deliveries.
#[derive(Subcommand)]
pub(super) enum DeadCommand {
    /// List them, the oldest first
    #[command(
        after_help = "Examples:\n  termitary dead list\n  termitary dead list --subscription users.send-welcome\n  termitary dead list --parked --json"
    )]
    List(DeadListArgs),
    /// Show one event with its payload and every error
    #[command(after_help = "Example:\n  termitary dead show 019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11")]
    Show(DeadShowArgs),
    /// Run them again, with a full number of attempts
    #[command(
        after_help = "Examples:\n  termitary dead replay --event 019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11\n  termitary dead replay --subscription users.send-welcome --yes\n  termitary dead replay --all --yes\n\nAsks first; without a terminal to ask on, --yes is needed."
    )]
    Replay(DeadResolveArgs),
    /// Drop them for good
    #[command(
        after_help = "Examples:\n  termitary dead drop --event 019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11 --yes\n  termitary dead drop --parked --yes\n\nAsks first; without a terminal to ask on, --yes is needed."
    )]
    Drop(DeadResolveArgs),
}

/// The selected dead and parked deliveries.
#[derive(Args)]
pub(super) struct DeadFilter {
    /// Only those of this subscription
    #[arg(long, value_name = "NAME")]
    pub(super) subscription: Option<String>,
    /// Only those of the event with this id
    #[arg(long, value_name = "ID")]
    pub(super) event: Option<String>,
    /// Only parked ones: kept because no code here can read them
    #[arg(long)]
    pub(super) parked: bool,
}

/// The arguments of `dead list`.
#[derive(Args)]
pub(super) struct DeadListArgs {
    #[command(flatten)]
    pub(super) filter: DeadFilter,
    /// The most deliveries to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `dead show`.
#[derive(Args)]
pub(super) struct DeadShowArgs {
    /// The event's id
    pub(super) id: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `dead replay` and `dead drop`.
#[derive(Args)]
pub(super) struct DeadResolveArgs {
    #[command(flatten)]
    pub(super) filter: DeadFilter,
    /// All of them, dead and parked
    #[arg(long, conflicts_with_all = ["subscription", "event", "parked"])]
    pub(super) all: bool,
    /// Do not ask; needed without a terminal
    #[arg(long)]
    pub(super) yes: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `schedule`.
#[derive(Args)]
pub(super) struct ScheduleArgs {
    #[command(subcommand)]
    pub(super) command: ScheduleCommand,
}

/// The commands for schedules.
#[derive(Subcommand)]
pub(super) enum ScheduleCommand {
    /// List them with their last and next tick
    #[command(after_help = "Example:\n  termitary schedule list")]
    List(JsonArgs),
    /// Publish a schedule's event now, beside its ticks, and print the event's id
    #[command(after_help = "Example:\n  termitary schedule run todos.overdue.check")]
    Run(ScheduleNameArgs),
    /// Stop a schedule until it is resumed
    #[command(after_help = "Example:\n  termitary schedule pause todos.overdue.check")]
    Pause(ScheduleNameArgs),
    /// Resume a paused schedule; missed ticks are not made up
    #[command(after_help = "Example:\n  termitary schedule resume todos.overdue.check")]
    Resume(ScheduleNameArgs),
}

/// The argument of `schedule run`, `pause` and `resume`.
#[derive(Args)]
pub(super) struct ScheduleNameArgs {
    /// The schedule's name
    pub(super) name: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `subscription`.
#[derive(Args)]
pub(super) struct SubscriptionArgs {
    #[command(subcommand)]
    pub(super) command: SubscriptionCommand,
}

/// The commands for subscriptions; `status` shows them.
#[derive(Subcommand)]
pub(super) enum SubscriptionCommand {
    /// Drop one with its deliveries, after its code was removed or renamed
    #[command(
        after_help = "Example:\n  termitary subscription drop todos.old-name\n\nAsks first; without a terminal to ask on, --yes is needed.\n\nUntil then its deliveries wait, and with Redis its events are kept, in case the code\nreturns. `termitary status` shows such subscriptions with 0 workers."
    )]
    Drop(SubscriptionDropArgs),
}

/// The arguments of `subscription drop`.
#[derive(Args)]
pub(super) struct SubscriptionDropArgs {
    /// The subscription's name
    pub(super) name: String,
    /// Do not ask; needed without a terminal
    #[arg(long)]
    pub(super) yes: bool,
    /// Drop it even while live workers run it
    #[arg(long)]
    pub(super) force: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `user`.
#[derive(Args)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    pub(super) command: UserCommand,
}

/// The commands for users.
#[derive(Subcommand)]
pub(super) enum UserCommand {
    /// Create a user; prints a new password unless --password-stdin gives one
    #[command(
        after_help = "Examples:\n  termitary user create ada@example.com --admin\n  termitary user create bob@example.com --name Bob --password-stdin < password.txt\n\nA password is never an argument, which other users could read."
    )]
    Create(UserCreateArgs),
    /// List all users, the oldest first
    #[command(
        after_help = "Examples:\n  termitary user list\n  termitary user list --json | jq -r '.[] | select(.role == \"admin\") | .email'"
    )]
    List(JsonArgs),
    /// End every session of a user
    #[command(after_help = "Example:\n  termitary user logout ada@example.com")]
    Logout(UserNameArgs),
    /// Set a user's password; asks for it or reads stdin
    #[command(
        after_help = "Examples:\n  termitary user password ada@example.com\n  termitary user password ada@example.com --generate\n  termitary user password ada@example.com --password-stdin < password.txt\n\nEvery session of the user ends, and they get a mail. A password is never an\nargument, which other users could read."
    )]
    Password(UserPasswordArgs),
    /// Set the role of a user
    #[command(
        after_help = "Example:\n  termitary user role ada@example.com admin\n\nEvery session of the user ends."
    )]
    Role(UserRoleArgs),
    /// Confirm a user's address if no mail can do it
    #[command(after_help = "Example:\n  termitary user confirm ada@example.com")]
    Confirm(UserNameArgs),
}

/// The argument of `user logout` and `user confirm`.
#[derive(Args)]
pub(super) struct UserNameArgs {
    /// The user's e-mail address
    pub(super) email: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `user password`.
#[derive(Args)]
pub(super) struct UserPasswordArgs {
    /// The user's e-mail address
    pub(super) email: String,
    /// Read the password from the first line of stdin
    #[arg(long)]
    pub(super) password_stdin: bool,
    /// Generate a password and print it
    #[arg(long, conflicts_with = "password_stdin")]
    pub(super) generate: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `user role`.
#[derive(Args)]
pub(super) struct UserRoleArgs {
    /// The user's e-mail address
    pub(super) email: String,
    /// The new role
    #[arg(value_parser = ["user", "admin"])]
    pub(super) role: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `user create`.
#[derive(Args)]
pub(super) struct UserCreateArgs {
    /// The e-mail address, which is also the login
    pub(super) email: String,
    /// The name that others see [default: the part of the address before the @]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Create an admin, who may see and change everything
    #[arg(long)]
    pub(super) admin: bool,
    /// Read the password from the first line of stdin
    #[arg(long)]
    pub(super) password_stdin: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `health`.
#[derive(Args)]
pub(super) struct HealthArgs {
    /// Check only that the process lives (/healthz instead of /readyz)
    #[arg(long)]
    pub(super) live: bool,
    /// Check instead that a worker of this machine reported to the database within
    /// the last 20 seconds
    #[arg(long, conflicts_with = "live")]
    pub(super) worker: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments of `completions`.
#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

fn settings_help() -> String {
    let mut text = String::from(
        "Examples:\n  termitary                      everything in one process, data in ./termitary.db\n  termitary --port 3001          the same on another port\n  termitary events               every event and its handlers\n  termitary tail                 events as they are published\n  REDIS_URL=redis://127.0.0.1 termitary worker\n\nSettings, from the environment, from .env in this folder, or as a flag:\n",
    );
    for setting in documented() {
        let _ = writeln!(
            text,
            "\n  {}  (--{})\n{}",
            setting.variable,
            setting.flag,
            wrapped(&setting.help)
        );
    }
    text.push_str("\nA flag wins over the environment, and the environment over .env. An empty value counts\nas not set: the next of them applies, and then the default.\n\nExit codes: 0 done, also if a list is empty; 1 failed; 2 wrong usage or configuration,\nalso if there is no database, or nothing of the name or id that was given.");
    text
}

/// `text` in lines of at most 88 characters, indented.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if lines
            .last()
            .is_some_and(|line| line.len() + word.len() > 80)
        {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
        .iter()
        .map(|line| format!("        {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
