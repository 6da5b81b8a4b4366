//! Calls a measured program and reads the JSON that it prints.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// Time limit of one measurement.
const PATIENCE: Duration = Duration::from_mins(4);

/// Runs the program to its end; returns its output.
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
    json_in(&text).with_context(|| format!("`{shown}` printed no JSON: {text}"))
}

/// The JSON of an output: all of it, or its last line if other text precedes it.
fn json_in(text: &str) -> Result<Value> {
    let line = || text.lines().last().unwrap_or_default();
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(line()))
        .context("neither the whole output nor its last line is JSON")
}

/// Waits for a program that prints less than a pipe holds.
fn patiently(mut child: Child) -> Result<Output> {
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("still running after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_from_one_line_and_from_many() {
        for text in ["{\"a\":1}", "{\n  \"a\": 1\n}\n", "ready\n{\"a\":1}\n"] {
            assert_eq!(
                json_in(text).map(|json| json["a"].clone()).ok(),
                Some(1.into())
            );
        }
        assert!(json_in("nothing").is_err());
    }
}
