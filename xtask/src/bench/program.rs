//! Calls a measured program and reads its one line of JSON.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// Longest time that one measurement may take.
const PATIENCE: Duration = Duration::from_mins(4);

/// Runs it to its end; answers what it says.
pub(crate) fn call(command: &mut Command) -> Result<Value> {
    let shown = command::shown(command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let output = patiently(child).with_context(|| format!("`{shown}`"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let mut last: Vec<&str> = errors.lines().rev().take(3).collect();
        last.reverse();
        bail!("`{shown}` failed ({}): {}", output.status, last.join(" / "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("`{shown}` said no JSON: {line}"))
}

/// Waits for a program that prints less than a pipe holds.
fn patiently(mut child: Child) -> Result<Output> {
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("no end after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}
