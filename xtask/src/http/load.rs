//! Runs wrk and reads its output.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// Number of connections that send at once.
pub(super) const CONNECTIONS: u32 = 64;

pub(super) struct Load {
    script: PathBuf,
    seconds: u32,
}

/// The responses of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) requests: f64,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) errors: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {} errors",
            self.per_second, self.p50_ms, self.p99_ms, self.errors
        )
    }
}

impl Load {
    pub(super) fn new(script: PathBuf, seconds: u32) -> Self {
        Self { script, seconds }
    }

    /// Sends requests as fast as the responses come.
    pub(super) fn run(&self, method: &str, port: u16, token: &str) -> Result<Outcome> {
        let mut wrk = Command::new("wrk");
        wrk.args(["--threads", "1"])
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--duration", &format!("{}s", self.seconds)])
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://127.0.0.1:{port}/api/v1/todos"))
            .env("METHOD", method)
            .env("TOKEN", token);
        outcome(&command::capture(&mut wrk)?)
    }
}

/// Reads the line that our script adds to the output of wrk.
fn outcome(said: &str) -> Result<Outcome> {
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT "));
    let result: Value = serde_json::from_str(line.context("wrk printed no result")?)?;
    let number = |name: &str| {
        result[name]
            .as_f64()
            .with_context(|| format!("wrk printed no {name}"))
    };
    let requests = number("requests")?;
    Ok(Outcome {
        requests,
        per_second: requests / number("seconds")?,
        p50_ms: number("p50Ms")?,
        p99_ms: number("p99Ms")?,
        errors: result["errors"].as_u64().context("wrk printed no errors")?,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_among_what_wrk_says() {
        let said = "Running 5s test\nRESULT {\"requests\":200,\"seconds\":2.0,\"errors\":1,\"p50Ms\":1.5,\"p99Ms\":9.25,\"maxMs\":12.0}\n";
        let outcome = outcome(said).unwrap();
        assert_eq!(
            (outcome.per_second, outcome.p99_ms, outcome.errors),
            (100.0, 9.25, 1)
        );
        assert!(super::outcome("Running 5s test").is_err());
    }
}
