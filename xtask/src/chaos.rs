//! `cargo xtask chaos`: the chaos harness, with what it needs installed.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, machine, steps};

/// Runs the driver; answers whether every promise was kept.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    machine::prepare()?;
    let mut build = workspace.cargo("build --package termitary-chaos --locked");
    command::run(&mut build)?;
    let mut drive = workspace.cargo("run --quiet --package termitary-chaos --locked -- drive");
    drive.args(args);
    command::passes(&mut steps::sheltered(drive))
}
