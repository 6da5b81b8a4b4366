//! The command line: one file per command.
//!
//! Exit codes: 0 done, also if a list is empty; 1 failed; 2 wrong usage or configuration, also
//! if there is no database, or nothing of the name or id that was given: a [`Mistake`]. Results go to stdout;
//! logs and errors go to stderr.

mod args;
mod banner;
mod bench;
mod check;
mod completions;
mod confirm;
mod database_file;
mod database_server;
mod dead;
mod doctor;
mod events;
mod health;
mod migrate;
mod misspelt;
mod moving;
mod output;
mod publish;
mod reachable;
mod schedule;
mod serve;
mod signals;
mod status;
mod subscription;
mod suggestions;
mod system;
mod tail;
mod user;

use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

pub use args::Cli;
use args::Command;

use crate::config::{self, Config, Dotenv, Mistake, Variables};
use crate::logging;

/// Runs the `termitary` binary.
pub fn main() -> ExitCode {
    let dotenv = Dotenv::load();
    let command = dotenv.fill(Cli::command());
    let matches = command.clone().get_matches();
    let config = |variables: Variables| {
        dotenv.readable()?;
        let variables =
            variables.or_next(|name| config::in_environment(name).or_else(|| dotenv.get(name)));
        Config::try_from(variables).map_err(|mistake| {
            print_warnings(&dotenv);
            dotenv.blame(mistake, &command, &matches)
        })
    };
    let code = match parse(&matches).and_then(|cli| run(cli, config, &dotenv)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    };
    logging::flush();
    code
}

/// The ignored lines of `.env`, and the misspelt settings.
fn warnings(dotenv: &Dotenv) -> impl Iterator<Item = String> {
    dotenv.warnings().chain(misspelt::settings(dotenv))
}

/// Prints the warnings before logging has started.
fn print_warnings(dotenv: &Dotenv) {
    for warning in warnings(dotenv) {
        logging::print(&format!("termitary: {warning}"));
    }
}

fn parse(matches: &ArgMatches) -> anyhow::Result<Cli> {
    refuse_secrets_in_argv(matches)?;
    Ok(Cli::from_arg_matches(matches)?)
}

/// Refuses secrets in arguments, which every user of the machine can read.
fn refuse_secrets_in_argv(matches: &ArgMatches) -> Result<(), Mistake> {
    for (variable, id) in config::secrets() {
        if matches.value_source(&id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let value = matches.get_one::<String>(&id).map_or("", String::as_str);
        let whole = ["REDIS_PASSWORD", "TERMITARY_SECRET"].contains(&variable);
        if whole || config::redact(value) != config::escape(value) {
            return Err(Mistake::new(format!(
                "other users can read a password on the command line: set {variable} or {variable}_FILE in the environment instead"
            )));
        }
    }
    Ok(())
}

fn run(
    cli: Cli,
    config: impl FnOnce(Variables) -> Result<Config, Mistake>,
    dotenv: &Dotenv,
) -> anyhow::Result<()> {
    if let Some(Command::Completions(args)) = &cli.command {
        return completions::run(args);
    }
    let config = config(cli.settings)?;
    let command = cli.command.unwrap_or(Command::Dev);
    logging::init(&config, command.serves())?;
    for warning in warnings(dotenv) {
        tracing::warn!("{warning}");
    }
    for note in &config.notes {
        tracing::debug!("{note}");
    }
    // Two providers may be compiled in; without a choice the first TLS connection would
    // panic. An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dispatch(command, config));
    // A blocked read from a terminal must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn dispatch(command: Command, config: Config) -> anyhow::Result<()> {
    match command {
        Command::Dev => serve::run(config, serve::Role::Dev).await,
        Command::Api => serve::run(config, serve::Role::Api).await,
        Command::Worker => serve::run(config, serve::Role::Worker).await,
        Command::Migrate(args) => migrate::run(config, &args).await,
        Command::Publish(args) => publish::run(config, args).await,
        Command::Tail(args) => tail::run(config, args).await,
        Command::Events(args) => events::run(&args),
        Command::Status(args) => status::run(config, &args).await,
        Command::Doctor(args) => doctor::run(config, &args).await,
        Command::Check(args) => check::run(config, &args).await,
        Command::Move(args) => moving::run(config, args).await,
        Command::Dead(args) => dead::run(config, args.command).await,
        Command::Schedule(args) => schedule::run(config, args.command).await,
        Command::Subscription(args) => subscription::run(config, args.command).await,
        Command::User(args) => user::run(config, args.command).await,
        Command::Bench(args) => Box::pin(bench::run(config, args)).await,
        Command::BenchWorker => termitary_bench::run_worker().await,
        Command::Health(args) => health::run(config, &args).await,
        Command::Completions(args) => completions::run(&args),
    }
}

/// Prints the error once, on stderr; returns the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        usage.exit();
    }
    if error.is::<output::ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    logging::print(&format!("termitary: {}", output::chain(error)));
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let configuration = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Mistake>()
            || cause
                .downcast_ref::<termitary::Error>()
                .is_some_and(|error| error.is_invalid() || error.is_newer_schema())
    };
    if error.is::<Mistake>() || error.chain().any(configuration) {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_ends_with_two_and_a_failure_with_one() {
        let mistake = anyhow::Error::from(Mistake::new("PORT is `x`"));
        assert_eq!(exit_code(&mistake.context("cannot start")), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("no answer")), 1);
    }
}
