//! Renders docs/benchmarks.md and its plots from the measurements.

mod aims;
mod application;
mod flat;
mod plots;
mod systems;

use std::path::Path;

use anyhow::{Context, Result};

use super::plan::{REDIS, SQLITE};
use super::samples::Run;
use super::tables::table;
use crate::workspace::make_folder;

/// Writes the page and the plots into `folder`.
pub(crate) fn write(run: &Run, folder: &Path) -> Result<()> {
    let pictures = folder.join("benchmarks");
    make_folder(&pictures)?;
    let mut drawn = Vec::new();
    for (name, svg) in plots::all(run) {
        let path = pictures.join(name);
        std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        drawn.push(name);
    }
    let page = folder.join("benchmarks.md");
    std::fs::write(&page, text(run, &drawn))
        .with_context(|| format!("cannot write {}", page.display()))?;
    println!("wrote {}", page.display());
    Ok(())
}

/// The page.
pub(crate) fn text(run: &Run, drawn: &[&str]) -> String {
    let plot = |name: &str, what: &str| {
        if drawn.contains(&name) {
            format!("![{what}](benchmarks/{name})\n")
        } else {
            String::new()
        }
    };
    let parts = [
        introduction(run),
        aims::text(run),
        heading(
            "Publish",
            &plot("publish.svg", "Events published per second"),
        ),
        systems::publish(run),
        heading("Drain", &plot("drain.svg", "Events drained per second")),
        systems::drain(run),
        heading(
            "Latency",
            &plot("latency.svg", "From the planned publish to the handler"),
        ),
        systems::latency(run),
        application::text(run),
        heading(
            "Cost under growing load",
            &plot("flat.svg", "Cost per event as the backlog grows"),
        ),
        flat::text(run),
        PROFILE.to_owned(),
        conditions(run),
        extra(run),
    ];
    let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n\n") + "\n"
}

/// Results of a profiler, found by hand.
const PROFILE: &str = include_str!("../../../../bench/profile.md");

fn introduction(run: &Run) -> String {
    format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; do not edit. The samples are in [benchmarks.json](benchmarks.json); \
         [bench/](../bench/README.md) describes the measurements. To measure your own machine, run `termitary bench`.\n\n\
         Every figure is the median of {} rounds (latency: three times in each), with the minimum and the maximum in \
         brackets. In each round all systems of a row are measured one after the other on the same machine, so figures \
         within a row can be compared. The machine is shared, so figures of different days cannot. *Raw* is the speed of \
         Redis or SQLite in a small program that does nothing else. The event is a `todos.created` of 162 bytes; the \
         handler does nothing.\n",
        run.rounds
    )
}

fn heading(title: &str, plot: &str) -> String {
    format!("## {title}\n\n{plot}")
}

fn conditions(run: &Run) -> String {
    let facts: Vec<Vec<String>> = run
        .facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![name.clone(), value.replace('|', "/")])
        .collect();
    let mut settings = Vec::new();
    for (broker, systems) in [("Redis", REDIS), ("SQLite", SQLITE)] {
        for system in systems {
            settings.push(format!(
                "- {broker}, **{}**: {}.",
                system.name, system.settings
            ));
        }
    }
    let facts = table(&["", ""], &facts).replacen("| ---: |", "| --- |", 1);
    format!(
        "## Conditions\n\n{facts}\n\
         Redis listens on loopback without persistence. SQLite is in WAL mode with synchronous=FULL, on the disk of the checkout. (Ours waits for the disk before it \
         confirms a commit too, but after it releases the lock: decision 0007.) Publisher, worker and server share the machine. A drain is timed inside the worker process, from \
         before its first fetch until every event is handled *and* acknowledged. Latency is open-loop at 500/s: from the \
         planned time of the publish to the start of the handler, in two processes. Memory and CPU are those of the \
         worker process during its drain.\n\n{}\n",
        settings.join("\n")
    )
}

/// Measurements that failed.
fn extra(run: &Run) -> String {
    if run.failures.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = run.failures.iter().map(|f| format!("- {f}")).collect();
    format!("## Not measured in this run\n\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests;
