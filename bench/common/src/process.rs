//! CPU and memory of a process, and the second process of a latency run.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{Args, Result};

/// User and system CPU seconds of this process.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may contain blanks; it ends with a bracket.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = |index: usize| -> f64 {
        fields
            .get(index)
            .and_then(|field| field.parse().ok())
            .unwrap_or(0.0)
    };
    // utime and stime, in ticks of 10 ms on every Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// The peak resident memory of this process, in bytes.
pub fn peak_memory() -> u64 {
    memory("VmHWM:")
}

/// The current resident memory of this process, in bytes.
pub fn memory_now() -> u64 {
    memory("VmRSS:")
}

fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|found| found.strip_prefix(line))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .map_or(0, |kib: u64| kib * 1024)
}

/// Prints the result, with the CPU and memory of this process.
pub fn report(mut result: Value) {
    if let Some(object) = result.as_object_mut() {
        object.entry("cpuSeconds").or_insert(cpu_seconds().into());
        object.entry("peakMemory").or_insert(peak_memory().into());
    }
    println!("{result}");
}

/// Starts the worker of a latency run and waits until it is ready.
pub fn start_worker(args: &Args) -> Result<Worker> {
    start_as(args, "latency-worker")
}

/// Starts this program for `row` and waits until it is ready.
pub fn start_as(args: &Args, row: &str) -> Result<Worker> {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe()?)
        .args(args.of_row(row))
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("the child has no standard output")?;
    let mut lines = BufReader::new(output).lines();
    match lines.next() {
        Some(Ok(line)) if line == READY => Ok(Worker { child, lines }),
        other => Err(format!("the worker did not start: {other:?}").into()),
    }
}

/// The line that a worker prints when publishing may start.
pub const READY: &str = "ready";

/// A worker in a separate process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Worker {
    /// Its result.
    pub fn result(mut self) -> Result<Value> {
        let line = self.lines.next().ok_or("the worker printed nothing")??;
        self.child.wait()?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
