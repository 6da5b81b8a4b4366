//! `cargo xtask bench`: Termitary beside the raw limits of Redis and SQLite and beside other
//! systems, in one run. The measured programs are in `bench/`, a workspace of its own; this module
//! builds, calls and compares them.

mod application;
mod build;
mod flat;
pub(crate) mod instructions;
mod machine_facts;
mod ours;
mod place;
mod plan;
mod program;
mod render;
mod samples;
mod svg;
mod systems;
mod tables;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, make_folder};
use build::Programs;
use samples::Run;

/// The options of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    rounds: usize,
    only: Vec<String>,
    quick: bool,
    render_only: bool,
    build: Building,
    termitary: Option<PathBuf>,
}

/// The build before the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Building {
    /// Build missing programs, then measure.
    First,
    /// Build and stop.
    Only,
    /// Measure without a build.
    Not,
}

const HELP: &str = "\
Usage: cargo xtask bench [--rounds N] [--only WORD,...] [--quick]
       cargo xtask bench --build      only build the measured programs
       cargo xtask bench --no-build   measure programs that are already built
       cargo xtask bench --render     write docs/benchmarks.md again, from docs/benchmarks.json

Measures Termitary, the raw limits and other systems, one after the other in
every round, and writes docs/benchmarks.{json,md} and the plots. It installs
missing tools (redis-server, node, the npm packages of bench/node) and builds about
300 crates the first time. With --quick or --only it leaves docs/ unchanged and
writes the report to target/bench/report.

  --rounds N   measurements of each figure (3); medians are reported
  --only WORDS only rows and systems whose name contains one of the words, such as
               redis, sqlite, drain, latency, application, flat,
               bullmq
  --termitary FILE
               measure this build of the program, not target/release/termitary
  --quick      a tenth of the events, one round: a test run";

/// Executes `args`; returns whether every measurement succeeded.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    if args.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        println!("{HELP}");
        return Ok(true);
    }
    let options = parse(args)?;
    let json = workspace.path("docs/benchmarks.json");
    if options.render_only {
        let run = Run::load(&json)?;
        render::write(&run, &workspace.path("docs"))?;
        return Ok(true);
    }
    let programs = match options.build {
        Building::Not => Programs::find(workspace)?,
        _ => Programs::build(workspace, options.termitary.is_none())?,
    };
    let programs = match &options.termitary {
        Some(file) => programs.with_termitary(file)?,
        None => programs,
    };
    if options.build == Building::Only {
        return Ok(true);
    }
    let mut run = Run::begin(machine_facts::gather(workspace), options.rounds);
    systems::measure(&programs, &options, &mut run)?;
    application::measure(&programs, &options, &mut run)?;
    flat::measure(&programs, &options, &mut run)?;
    if run.samples.is_empty() && run.failures.is_empty() {
        bail!(
            "no row and no system has {} in its name",
            options.only.join(" or ")
        );
    }
    let folder = if options.quick || !options.only.is_empty() {
        workspace.scratch().with_file_name("bench").join("report")
    } else {
        workspace.path("docs")
    };
    make_folder(&folder)?;
    run.save(&folder.join("benchmarks.json"))?;
    render::write(&run, &folder)?;
    Ok(run.failures.is_empty())
}

fn parse(args: &[&str]) -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        only: Vec::new(),
        quick: false,
        render_only: false,
        build: Building::First,
        termitary: None,
    };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => {
                options.quick = true;
                options.rounds = 1;
            }
            "--render" => options.render_only = true,
            "--build" => options.build = Building::Only,
            "--no-build" => options.build = Building::Not,
            "--termitary" => {
                let value = words.next().context("--termitary needs a file")?;
                options.termitary = Some(value.into());
            }
            "--rounds" => {
                let value = words.next().context("--rounds needs a number")?;
                options.rounds = value.parse().context("--rounds needs a number")?;
            }
            "--only" => {
                let value = words.next().context("--only needs words")?;
                options.only = value.split(',').map(str::to_owned).collect();
            }
            other => bail!("unknown option `{other}`\n\n{HELP}"),
        }
    }
    if options.rounds == 0 {
        bail!("--rounds needs a number above 0");
    }
    Ok(options)
}

impl Options {
    /// Returns whether a row or system of this name is selected.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }

    /// Number of events in this run, if a whole run takes `events`.
    fn events(&self, events: usize) -> usize {
        if self.quick {
            (events / 10).max(100)
        } else {
            events
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_has_one_round_and_a_tenth_of_the_events() {
        let options = parse(&["--quick"]).ok();
        assert_eq!(options.as_ref().map(|o| o.rounds), Some(1));
        assert_eq!(options.map(|o| o.events(50_000)), Some(5_000));
    }

    #[test]
    fn only_chooses_by_parts_of_names() {
        let Ok(options) = parse(&["--only", "drain,river", "--rounds", "5"]) else {
            unreachable!("these options are known")
        };
        assert!(options.wants("redis/drain/raw"));
        assert!(options.wants("sqlite/publish-64/river"));
        assert!(!options.wants("redis/latency/raw"));
    }

    #[test]
    fn unknown_options_and_no_rounds_are_refused() {
        assert!(parse(&["--fast"]).is_err());
        assert!(parse(&["--rounds", "0"]).is_err());
        assert!(parse(&["--rounds"]).is_err());
    }
}
