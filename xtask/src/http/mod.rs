//! `cargo xtask bench --http`: the todo endpoints of the API under load, beside
//! the same endpoints written with Elysia on Bun (`bench/http`).

pub(crate) mod client;
mod load;
mod report;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, make_folder};
use crate::{command, machine};
use load::Load;
use report::{Row, Run, Sample};
use server::{Elysia, Kind, Server};

const HELP: &str = "\
Usage: cargo xtask bench --http [--rounds N] [--seconds N] [--program FILE]

Sends POST and GET /api/v1/todos from 64 connections with wrk: to our API, to our
API with its worker, and to the same endpoints with Elysia on Bun, one after the
other in every round. Installs wrk, node, npm and redis-server if they are missing,
and the npm packages of bench/http. Writes docs/benchmarks-http.md.

  --rounds N      measurements of each figure (3); medians are reported
  --seconds N     duration of one load (8)
  --program FILE  measure this build of `termitary`; the default is a new release build
  --no-docs       leave docs/ unchanged: write the report to target/bench/http";

/// Number of todos before lists are requested.
const SEED: usize = 1_000;

struct Options {
    rounds: usize,
    seconds: u32,
    program: Option<PathBuf>,
    docs: bool,
}

/// Executes `args`; returns whether everything was measured without an error.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    if args.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        println!("{HELP}");
        return Ok(true);
    }
    let options = parse(args)?;
    machine::prepare_http()?;
    let scratch = workspace.scratch().with_file_name("bench").join("http");
    make_folder(&scratch)?;
    let elysia = install_elysia(workspace, &scratch)?;
    let program = match &options.program {
        Some(file) => file.clone(),
        None => build(workspace)?,
    };
    let bench = Bench {
        load: Load::new(workspace.path("bench/http/wrk.lua"), options.seconds),
        program,
        elysia,
        scratch: scratch.clone(),
    };
    let mut run = Run::new(options.rounds, options.seconds, SEED);
    for round in 1..=options.rounds {
        for kind in Kind::ALL {
            bench.measure(kind, round, &mut run)?;
        }
    }
    let folder = if options.docs {
        workspace.path("docs")
    } else {
        scratch
    };
    run.write(&folder)?;
    Ok(run.samples.iter().all(|sample| sample.result.errors == 0))
}

fn parse(args: &[&str]) -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        seconds: 8,
        program: None,
        docs: true,
    };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match *word {
            "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
            "--seconds" => {
                options.seconds = value()?.parse().context("--seconds needs a number")?;
            }
            "--program" => {
                let file = Path::new(value()?);
                let found = file.canonicalize();
                options.program =
                    Some(found.with_context(|| format!("--program {}", file.display()))?);
            }
            "--no-docs" => options.docs = false,
            other => bail!("unknown option `{other}`\n\n{HELP}"),
        }
    }
    if options.rounds == 0 || options.seconds == 0 {
        bail!("--rounds and --seconds need numbers above 0");
    }
    Ok(options)
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("build --release --package termitary-app --locked");
    command::run(&mut cargo)?;
    Ok(workspace
        .scratch()
        .with_file_name("release")
        .join("termitary"))
}

/// Runs `npm ci` in a copy, so that the checkout stays clean.
fn install_elysia(workspace: &Workspace, scratch: &Path) -> Result<Elysia> {
    let folder = scratch.join("node");
    make_folder(&folder)?;
    let sources = workspace.path("bench/http");
    let lock = std::fs::read(sources.join("package-lock.json"))?;
    let same = std::fs::read(folder.join("package-lock.json")).is_ok_and(|old| old == lock);
    let installed = same && find_bun(&folder).is_ok();
    for name in ["package.json", "package-lock.json", "elysia.ts"] {
        std::fs::copy(sources.join(name), folder.join(name))
            .with_context(|| format!("cannot copy bench/http/{name}"))?;
    }
    if !installed {
        println!(
            "installing bun and elysia from npm into {}",
            folder.display()
        );
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        command::run(npm.current_dir(&folder))?;
    }
    Ok(Elysia {
        bun: find_bun(&folder)?,
        script: folder.join("elysia.ts"),
    })
}

/// Bun itself, for this machine. npm's own link to it is created by an installation script, and no
/// such script runs here.
fn find_bun(folder: &Path) -> Result<PathBuf> {
    let variants = std::fs::read_dir(folder.join("node_modules/@oven"))?;
    let programs = variants.flatten().map(|entry| entry.path().join("bin/bun"));
    let runs = |file: &PathBuf| command::works(&file.to_string_lossy(), &["--version"]);
    let mut running = programs.filter(runs);
    running
        .next()
        .context("npm installed no bun that runs on this machine")
}

struct Bench {
    load: Load,
    program: PathBuf,
    elysia: Elysia,
    scratch: PathBuf,
}

impl Bench {
    /// Measures everything about one system, on a fresh database.
    fn measure(&self, kind: Kind, round: usize, run: &mut Run) -> Result<()> {
        let folder = self.scratch.join("run");
        let server = Server::start(kind, &folder, &self.program, &self.elysia)?;
        let mut connection = client::Connection::open(server.port)?;
        for _ in 0..SEED {
            connection.make_todo(&server.token)?;
        }
        for row in Row::ALL {
            let before = server.cpu_seconds();
            let result = self.load.run(row.method(), server.port, &server.token)?;
            let used = Option::zip(server.cpu_seconds(), before).map(|(now, then)| now - then);
            println!("{} {round}: {}: {result}", kind.name(), row.name());
            run.samples.push(Sample {
                kind,
                row,
                cpu_seconds_per_100k: used.map(|used| used * 1e5 / result.requests.max(1.0)),
                result,
            });
        }
        drop(server);
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
