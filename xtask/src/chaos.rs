//! `cargo xtask chaos`: the chaos harness, with what it needs installed.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, machine, steps};

/// Runs the driver; answers whether every promise was kept.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    machine::prepare()?;
    let features = features(args);
    let mut build = workspace.cargo("build --package termitary-chaos --locked");
    command::run(build.args(features))?;
    let mut drive = workspace.cargo("run --quiet --package termitary-chaos --locked");
    drive.args(features).args(["--", "drive"]).args(args);
    command::passes(&mut steps::sheltered(drive))
}

/// A mistake on purpose is in no program that was not built for it.
fn features(args: &[&str]) -> &'static [&'static str] {
    let planted = args.iter().any(|arg| arg.starts_with("--planted"));
    if planted {
        &["--features", "planted-bugs"]
    } else {
        &[]
    }
}
