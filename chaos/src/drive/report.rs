//! The result of a run: a text, or one JSON object.

use std::path::Path;

use serde_json::json;

use super::{Database, Mode, Settings};
use crate::check::{Numbers, Verdict};

/// Prints it to standard output.
pub(super) fn print(
    settings: &Settings,
    seed: u64,
    verdict: &Verdict,
    notes: &[String],
    folder: Option<&Path>,
) {
    let command = command(settings, seed);
    if settings.json {
        let answer = json!({
            "clean": verdict.is_clean(),
            "command": command,
            "numbers": verdict.numbers,
            "findings": verdict.findings,
            "notes": notes,
            "folder": folder,
        });
        println!("{answer}");
        return;
    }
    println!("{}", numbers(&verdict.numbers));
    let kinds = verdict.numbers.faults_by_name.iter();
    let kinds: Vec<_> = kinds
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    println!("faults: {}", kinds.join(", "));
    for note in notes {
        println!("note: {note}");
    }
    for finding in &verdict.findings {
        println!(
            "\n{} BROKEN: {} ({} times)",
            finding.invariant, finding.what, finding.count
        );
        for example in &finding.examples {
            println!("    {example}");
        }
    }
    let word = if verdict.is_clean() { "CLEAN" } else { "RED" };
    println!("\n{word}: {command}");
    if let Some(folder) = folder {
        println!("histories, logs and database: {}", folder.display());
    }
}

/// The command that repeats this run: the same plan of faults, though not the same instants.
fn command(settings: &Settings, seed: u64) -> String {
    let mode = if settings.mode == Mode::Redis {
        "redis"
    } else {
        "sql"
    };
    let mut words = vec![format!(
        "cargo xtask chaos --mode {mode} --seed {seed} --minutes {}",
        settings.minutes
    )];
    if settings.database == Database::Postgres {
        words.push("--database postgres".to_owned());
    }
    let defaults = [
        ("workers", settings.workers as u64, 3),
        ("publishers", settings.publishers as u64, 2),
        ("rate", settings.rate, 20),
        ("lease-ms", settings.lease_ms, 2000),
        ("reconcile-ms", settings.reconcile_ms, 4000),
        ("pace-ms", settings.pace_ms, 3000),
    ];
    let changed = defaults
        .iter()
        .filter(|(_, value, default)| value != default);
    words.extend(changed.map(|(name, value, _)| format!("--{name} {value}")));
    if !settings.faults.is_empty() {
        words.push(format!("--faults {}", settings.faults.join(",")));
    }
    words.extend(
        settings
            .planted()
            .map(|planted| format!("--planted {planted}")),
    );
    words.join(" ")
}

fn numbers(numbers: &Numbers) -> String {
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let rows = [
        (
            "events",
            format!("{} ({} ticks)", numbers.events, numbers.ticks),
        ),
        (
            "publishes confirmed / unknown",
            format!("{} / {}", numbers.published, numbers.unknown),
        ),
        ("deliveries recorded", numbers.deliveries.to_string()),
        ("handler runs", numbers.runs.to_string()),
        ("faults", numbers.faults.to_string()),
        ("  processes killed", numbers.kills.to_string()),
        (
            "  processes stopped beyond their lease",
            numbers.stops.to_string(),
        ),
        ("  server losses", numbers.server_losses.to_string()),
        ("lost", numbers.lost.to_string()),
        (
            "bus events lost with the server's data",
            numbers.lost_with_server.to_string(),
        ),
        (
            "runs repeated by workers",
            numbers.duplicate_runs.to_string(),
        ),
        ("effects", numbers.effects.to_string()),
        ("effects doubled", numbers.effects_doubled.to_string()),
        (
            "suspects, run alone after two crashes",
            numbers.suspects.to_string(),
        ),
        ("quarantined", numbers.quarantined.to_string()),
        ("worst takeover", seconds(numbers.worst_takeover_ms)),
        ("worst recovery", seconds(numbers.worst_recovery_ms)),
        ("drained after", seconds(numbers.drained_ms)),
        (
            "largest process",
            format!("{} MiB", numbers.largest_resident_kib / 1024),
        ),
        (
            "largest pending list",
            numbers.largest_pending_list.to_string(),
        ),
        ("most connections", numbers.most_connections.to_string()),
        (
            "largest write-ahead log",
            format!("{} KiB", numbers.largest_log_bytes / 1024),
        ),
    ];
    let rows = rows.map(|(name, value)| format!("{name:<40} {value}"));
    rows.join("\n")
}
