//! `cargo xtask chaos`: installs the tools of the chaos harness and runs it.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, machine, steps};

/// Runs the driver; returns whether every promise was kept.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    machine::prepare()?;
    let features = features(args);
    let mut build = workspace.cargo("build --package termitary-chaos --locked");
    command::run(build.args(features))?;
    let mut drive = workspace.cargo("run --quiet --package termitary-chaos --locked");
    drive.args(features).args(["--", "drive"]).args(args);
    command::passes(&mut steps::sheltered(drive))
}

/// Only a program built for it contains a planted bug.
fn features(args: &[&str]) -> &'static [&'static str] {
    let planted = args.iter().any(|arg| arg.starts_with("--planted"));
    if planted {
        &["--features", "planted-bugs"]
    } else {
        &[]
    }
}
