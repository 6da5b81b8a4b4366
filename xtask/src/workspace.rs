//! Paths of the project and of its build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// The checkout that this task runs on.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the checkout from the manifest that cargo runs, not from the
    /// current directory: the tasks work in every folder of the project.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask is not in a workspace")?
            .to_owned();
        let mut workspace = Self {
            target: root.join("target"),
            root,
        };
        let metadata = workspace.metadata(&["--no-deps"])?;
        if let Some(target) = metadata["target_directory"].as_str() {
            workspace.target = PathBuf::from(target);
        }
        Ok(workspace)
    }

    /// A file or folder of the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Folder for output of the tasks, beside cargo's own.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// A `cargo` command at the root of the checkout.
    pub(crate) fn cargo(&self, args: &str) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(args.split_whitespace())
            .current_dir(&self.root);
        command
    }

    /// `cargo metadata`, parsed.
    pub(crate) fn metadata(&self, more: &[&str]) -> Result<Value> {
        let mut command = self.cargo("metadata --format-version 1 --locked");
        let text = command::capture(command.args(more))?;
        serde_json::from_str(&text).context("cargo metadata printed invalid JSON")
    }
}

/// Creates `folder` and its parents.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))
}
