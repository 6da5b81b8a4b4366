//! `cargo xtask`: tasks that need more than cargo.

mod bench;
mod chaos;
mod command;
#[cfg(test)]
mod deploy;
mod examples;
mod http;
#[cfg(test)]
mod layers;
mod licences;
mod machine;
#[path = "../../crates/termitary/src/testing/postgres/server.rs"]
#[expect(dead_code, reason = "the tests use all of it, this program does not")]
mod postgres;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod prose;
mod smtp;
mod steps;
mod test;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--help" | "-h" | "help"] | ["test", "--help" | "-h"] => {
            println!("{}", help());
            ExitCode::SUCCESS
        }
        ["test", names @ ..] => run_test(names),
        ["chaos", args @ ..] => run_task(chaos::run, args),
        ["bench", "--http", args @ ..] => run_task(http::run, args),
        ["bench", args @ ..] => run_task(bench::run, args),
        ["instructions", args @ ..] => run_task(bench::instructions::run, args),
        [] => wrong("no task given"),
        [first, ..] => wrong(&format!("there is no task `{first}`")),
    }
}

fn run_test(names: &[&str]) -> ExitCode {
    let steps = match test::choose(names) {
        Ok(steps) => steps,
        Err(error) => return wrong(&error.to_string()),
    };
    match Workspace::find() {
        Ok(workspace) if test::run(&workspace, &steps) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A task; returns whether it succeeded.
type Task = fn(&Workspace, &[&str]) -> anyhow::Result<bool>;

fn run_task(task: Task, args: &[&str]) -> ExitCode {
    match Workspace::find().and_then(|workspace| task(&workspace, args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(what: &str) -> ExitCode {
    eprintln!("xtask: {what}\n\n{}", help());
    ExitCode::from(2)
}

fn help() -> String {
    let steps: Vec<String> = steps::ALL
        .iter()
        .map(|step| format!("  {:<9} {}", step.name, step.about))
        .collect();
    format!(
        "\
Usage: cargo xtask test [STEP...]
       cargo xtask chaos [--mode redis|sqlite] [--seed N] [--minutes M] [OPTION...]
       cargo xtask bench [--rounds N] [--only WORD,...] [--quick] [--render]
       cargo xtask bench --http [--rounds N] [--seconds N]
       cargo xtask instructions [--accept]

`test` runs every check of the project, in this order, and stops at the first that
fails. With names of steps, it runs only those. It installs missing tools through
apt-get, as root or with `sudo -n`.

Steps:
{}

`chaos` kills, stops and disconnects real processes and a real redis-server by a
seed, then checks every promise; see `cargo xtask chaos --help`.

`bench` measures Termitary beside the raw limits of Redis and SQLite and beside
other systems, and writes docs/benchmarks.md; see `cargo xtask bench --help`.

`bench --http` measures the API beside the same endpoints with Elysia on Bun, and
writes docs/benchmarks-http.md; see `cargo xtask bench --http --help`.

`instructions` counts the instructions of one event with valgrind, and fails if a
count has grown by more than a tenth since it was last accepted.

CARGO_TARGET_DIR is respected. Exit codes: 0 all passed, 1 a step failed, 2 wrong usage.",
        steps.join("\n")
    )
}
