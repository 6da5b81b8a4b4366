//! The steps of `cargo xtask test`, in order.

use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{command, examples, licences, machine, postgres, smtp};

/// One check.
pub(crate) struct Step {
    /// The name on the command line.
    pub(crate) name: &'static str,
    /// A one-line description.
    pub(crate) about: &'static str,
    /// Runs the check; the error describes the failure.
    pub(crate) run: fn(&Workspace, &mut Tally) -> Result<()>,
}

/// Number of tests, from the output of the test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Cheap steps first, so that simple mistakes show at once.
pub(crate) const ALL: &[Step] = &[
    Step {
        name: "fmt",
        about: "the code is formatted",
        run: fmt,
    },
    Step {
        name: "licences",
        about: "every dependency's licence and source is allowed",
        run: check_licences,
    },
    Step {
        name: "tools",
        about: "installs missing tools of the tests",
        run: tools,
    },
    Step {
        name: "clippy",
        about: "the lints of Cargo.toml, warnings denied",
        run: clippy,
    },
    Step {
        name: "features",
        about: "each feature of the library compiles alone",
        run: features,
    },
    Step {
        name: "docs",
        about: "the API documentation builds, warnings denied",
        run: docs,
    },
    Step {
        name: "tests",
        about: "every test of the workspace (installs tools first)",
        run: tests,
    },
    Step {
        name: "examples",
        about: "every example of the library runs to its end",
        run: run_examples,
    },
];

/// Names and prefixes (`…_`) of the application's settings. The developer's shell may have some
/// set. The tests must not see them, because they start their own servers.
const SETTINGS: &[&str] = &[
    "DATABASE_",
    "REDIS_",
    "HOST",
    "PORT",
    "SMTP_",
    "MAIL_DIR",
    "TERMITARY_",
    "RUST_LOG",
    "LOG_FORMAT",
    "OTEL_",
];

/// Returns the command without the developer's own settings of the application.
pub(crate) fn sheltered(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is =
            |setting: &str| setting.ends_with('_') && text.starts_with(setting) || text == setting;
        if SETTINGS.iter().copied().any(is) {
            command.env_remove(&name);
        }
    }
    command
}

fn fmt(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    command::run(&mut workspace.cargo("fmt --all --check -- --color never"))
}

fn check_licences(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    licences::check(workspace)
}

fn tools(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    machine::prepare()?;
    smtp::python(workspace).map(drop)
}

fn clippy(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    command::run(
        &mut workspace
            .cargo("clippy --workspace --all-targets --all-features --locked -- -D warnings"),
    )
}

fn features(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    for features in ["", "postgres", "redis", "testing", "failpoints"] {
        let mut command =
            workspace.cargo("clippy -p termitary --lib --locked --no-default-features");
        if !features.is_empty() {
            command.args(["--features", features]);
        }
        command::run(command.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn docs(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    println!("with RUSTDOCFLAGS=-Dwarnings:");
    command::run(
        workspace
            .cargo("doc --workspace --no-deps --all-features --locked")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn tests(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    machine::prepare()?;
    let python = smtp::python(workspace)?;
    let postgres = postgres::Server::start(postgres::SHARED_CONF)?;
    let run = "test --workspace --all-features --locked --no-fail-fast";
    let prepared = |more: &str| {
        let mut command = sheltered(workspace.cargo(&format!("{run}{more}")));
        command
            .env(smtp::PYTHON, &python)
            .env(postgres::SHARED_URL, postgres.address())
            .env("INSTA_UPDATE", "no");
        command
    };
    watch(&mut prepared(""), tally)?;
    println!("\nThe suite of the API again, on PostgreSQL:");
    watch(
        prepared(" --test api").env(TEST_DATABASE, "postgres"),
        tally,
    )
}

/// Names the database of the suite of the API.
const TEST_DATABASE: &str = "TERMITARY_TEST_DATABASE";

/// Runs tests, counts them, and names those that failed.
fn watch(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut failed = Vec::new();
    let result = command::watch(command, |line| {
        tally.count(line);
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            failed.push(name.to_owned());
        }
    });
    if !failed.is_empty() {
        bail!("{} tests failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    result
}

fn run_examples(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    examples::run(workspace)
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub(crate) fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let rest = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
        for part in rest.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_test_program_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "a test prints: test result: ok. 100 passed",
        ] {
            tally.count(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 7,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn steps_have_different_names() {
        let mut names: Vec<_> = ALL.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
