//! Facts about the machine of a run.

use std::process::Command;

use crate::command;
use crate::workspace::Workspace;

/// Names and values, in the order of the report.
pub(crate) fn gather(workspace: &Workspace) -> Vec<(String, String)> {
    let said = |program: &str, args: &[&str]| {
        command::capture(Command::new(program).args(args))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let root = workspace.path("");
    let root = root.to_string_lossy();
    let mut facts = vec![
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        (
            "commit",
            said("git", &["-C", &root, "describe", "--always", "--dirty"]),
        ),
        ("processor", processor()),
        ("memory", memory()),
        ("system", said("uname", &["-sr"])),
        ("file system", said("stat", &["-f", "-c", "%T", &root])),
        ("Rust", said("rustc", &["--version"])),
        ("Redis", redis(&said("redis-server", &["--version"]))),
        ("Node", said("node", &["--version"])),
    ];
    for (package, name) in [
        ("redis", "redis-rs"),
        ("rusqlite", "rusqlite"),
        ("rusty-sidekiq", "rusty-sidekiq"),
        ("apalis", "apalis"),
        ("apalis-redis", "apalis-redis"),
        ("apalis-sqlite", "apalis-sqlite"),
        ("riverqueue", "riverqueue"),
    ] {
        facts.push((name, locked(workspace, package).unwrap_or_default()));
    }
    facts.push(("BullMQ", bullmq(workspace).unwrap_or_default()));
    facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {cores} cores")
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    format!("{} GiB", (kib + (1 << 19)) >> 20)
}

/// Extracts `7.0.15` from `Redis server v=7.0.15 sha=…`.
fn redis(said: &str) -> String {
    said.split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or(said)
        .to_owned()
}

/// The version in the lock file of `bench/`.
fn locked(workspace: &Workspace, package: &str) -> Option<String> {
    let lock = std::fs::read_to_string(workspace.path("bench/Cargo.lock")).ok()?;
    let entry = format!("name = \"{package}\"\nversion = \"");
    let rest = &lock[lock.find(&entry)? + entry.len()..];
    Some(rest[..rest.find('"')?].to_owned())
}

fn bullmq(workspace: &Workspace) -> Option<String> {
    let lock = std::fs::read_to_string(workspace.path("bench/node/package-lock.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&lock).ok()?;
    let version = &json["packages"]["node_modules/bullmq"]["version"];
    Some(version.as_str()?.to_owned())
}
