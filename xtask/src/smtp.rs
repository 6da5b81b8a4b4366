//! The Python environment of the SMTP receiver in the mail tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::workspace::{Workspace, make_folder};

/// Passes the Python with the receiver to the tests.
pub(crate) const PYTHON: &str = "TERMITARY_TEST_SMTP_PYTHON";

const REQUIREMENTS: &str = "xtask/smtp-requirements.txt";

/// Returns the Python of an environment with the pinned requirements. Creates the environment if it
/// is missing or was made for other requirements.
pub(crate) fn python(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.scratch().join("smtp");
    let python = folder.join("bin/python");
    let made_for = folder.join("requirements.txt");
    let wanted = std::fs::read_to_string(workspace.path(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let works = command::works(
        &python.to_string_lossy(),
        &["-c", "import aiosmtpd.controller"],
    );
    if works && std::fs::read_to_string(&made_for).is_ok_and(|made| made == wanted) {
        println!("found:   the SMTP receiver in {}", folder.display());
        return Ok(python);
    }
    println!(
        "making:  a Python environment with the SMTP receiver in {}",
        folder.display()
    );
    make_folder(&workspace.scratch())?;
    command::run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    command::run(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary", ":all:", "--require-hashes", "-r"])
            .arg(workspace.path(REQUIREMENTS)),
    )
    .context("cannot install the SMTP receiver from PyPI; see the message above")?;
    // Written last, so that a half-made environment is made again.
    std::fs::write(&made_for, wanted)
        .context("cannot record the requirements of the environment")?;
    Ok(python)
}
