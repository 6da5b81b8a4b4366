//! `termitary completions`: the completion script of a shell.

use clap::CommandFactory as _;

use super::args::{Cli, CompletionsArgs};

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    // Into memory first: the generator panics when stdout is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "termitary", &mut script);
    super::output::line(String::from_utf8_lossy(&script).trim_end())
}
