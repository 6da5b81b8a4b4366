//! Builds the measured programs, and prints the tools that it installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, make_folder};
use crate::{command, machine};

/// The measured programs.
pub(crate) struct Programs {
    rust: PathBuf,
    termitary: PathBuf,
    node: PathBuf,
    /// A folder for databases and servers, on the disk of the project.
    pub(crate) scratch: PathBuf,
}

const NAMES: &[&str] = &[
    "bench-raw",
    "bench-ours",
    "bench-sidekiq",
    "bench-apalis",
    "bench-river",
];

impl Programs {
    /// The paths of the programs after the build.
    pub(crate) fn places(workspace: &Workspace) -> Self {
        let target = workspace.scratch().with_file_name("bench");
        Self {
            rust: target.join("release"),
            termitary: target.with_file_name("release").join("termitary"),
            node: target.join("node"),
            scratch: target.join("scratch"),
        }
    }

    /// Builds all of them; a repeated build takes a second.
    pub(crate) fn build(workspace: &Workspace, termitary: bool) -> Result<Self> {
        machine::prepare_bench()?;
        let programs = Self::build_rust(workspace)?;
        if termitary {
            command::run(&mut workspace.cargo("build --release --locked --package termitary-app"))?;
        }
        programs.install_node(&workspace.path("bench/node"))?;
        Self::find(workspace)
    }

    /// Builds the workspace in `bench/`. Everything is built together: a single package would get
    /// its dependencies with other features, and build them once more.
    pub(crate) fn build_rust(workspace: &Workspace) -> Result<Self> {
        let programs = Self::places(workspace);
        println!("building the measured programs: about 300 crates, only the first time");
        let mut cargo = workspace.cargo("build --release --workspace --locked");
        cargo
            .current_dir(workspace.path("bench"))
            .arg("--target-dir")
            .arg(programs.rust.with_file_name(""));
        command::run(&mut cargo)?;
        make_folder(&programs.scratch)?;
        Ok(programs)
    }

    /// Runs `npm ci` in a copy, so that the checkout stays clean.
    fn install_node(&self, sources: &Path) -> Result<()> {
        make_folder(&self.node)?;
        let lock = std::fs::read(sources.join("package-lock.json"))?;
        let installed = self.node.join("node_modules").is_dir()
            && std::fs::read(self.node.join("package-lock.json")).is_ok_and(|old| old == lock);
        for name in ["package.json", "package-lock.json", "bullmq.js"] {
            std::fs::copy(sources.join(name), self.node.join(name))
                .with_context(|| format!("cannot copy bench/node/{name}"))?;
        }
        if installed {
            return Ok(());
        }
        println!("installing BullMQ from npm into {}", self.node.display());
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&self.node);
        command::run(&mut npm)
    }

    /// Finds the programs of an earlier build.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        let programs = Self::places(workspace);
        for name in NAMES {
            if !programs.rust.join(name).is_file() {
                bail!("{name} is not built: run `cargo xtask bench --build` first");
            }
        }
        if !programs.node.join("node_modules").is_dir() {
            bail!("BullMQ is not installed: run `cargo xtask bench --build` first");
        }
        make_folder(&programs.scratch)?;
        Ok(programs)
    }

    /// A command that starts the program of this name.
    pub(crate) fn command(&self, name: &str) -> Command {
        if name == "bullmq" {
            let mut command = Command::new("node");
            command.arg(self.node.join("bullmq.js"));
            return command;
        }
        Command::new(self.program(name))
    }

    /// Replaces the program of this project with another build of it.
    pub(crate) fn with_termitary(self, file: &Path) -> Result<Self> {
        let termitary = file
            .canonicalize()
            .with_context(|| format!("there is no {}", file.display()))?;
        Ok(Self { termitary, ..self })
    }

    /// The program of this project.
    pub(crate) fn termitary(&self) -> &Path {
        &self.termitary
    }

    /// The file of a Rust program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.rust.join(name)
    }
}
