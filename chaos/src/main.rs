//! A small Jepsen for Termitary: processes of the library and a real redis-server, a seeded nemesis
//! that kills, stops and disconnects them, a history of calls and outcomes, and one checker of the
//! promises.
//!
//! `drive` runs everything; `publisher` and `worker` are the processes that it starts and kills.

mod check;
mod clock;
mod drive;
mod events;
mod facts;
mod history;
mod publisher;
mod role;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "termitary-chaos", about, version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Runs processes and a server, injects faults by a seed, heals, checks
    Drive(Box<drive::Settings>),
    /// Publishes numbered events and records the outcomes
    #[command(hide = true)]
    Publisher(publisher::Settings),
    /// Handles the events and records each run
    #[command(hide = true)]
    Worker(worker::Settings),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().role {
        Role::Drive(settings) => drive::run(*settings).await,
        Role::Publisher(settings) => publisher::run(settings).await.map(|()| true),
        Role::Worker(settings) => worker::run(settings).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("termitary-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}
