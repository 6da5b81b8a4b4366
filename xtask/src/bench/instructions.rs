//! `cargo xtask instructions`: counts the instructions of one event with valgrind, to find a
//! regression on a busy machine too.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::build::Programs;
use super::place::Place;
use super::tables::{number, table};
use crate::workspace::Workspace;
use crate::{command, machine};

/// The counted rows: the broker, the row, and the row that fills its place.
const ROWS: &[(&str, &str, Option<&str>)] = &[
    ("sqlite", "publish-one", None),
    ("sqlite", "publish-bulk", None),
    ("sqlite", "drain", Some("publish-bulk")),
    ("redis", "publish-one", None),
    ("redis", "publish-bulk", None),
    ("redis", "drain", Some("publish-bulk")),
];

/// One run has this many events more than the other. The cost of the process itself is in both runs
/// and cancels out.
const FEW: u64 = 200;
const MANY: u64 = 1_200;

/// The lowest count of this many runs is taken: batching depends on other load on the machine,
/// which only adds instructions.
const ROUNDS: usize = 3;

/// Growth above the committed count that counts as a regression. Threads interleave a little
/// differently in every run.
const TOLERANCE: f64 = 0.10;

const FILE: &str = "bench/instructions.json";

const HELP: &str = "\
Usage: cargo xtask instructions [--accept] [--no-build]

Counts with valgrind the instructions that Termitary runs for one event: to
publish it, and to lease, handle and settle it, on SQLite and over Redis. Fails
if a count is more than 10% above the one in bench/instructions.json.

  --accept    write the counts into bench/instructions.json";

/// Executes `args`; returns whether no count has grown.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<bool> {
    if args.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        println!("{HELP}");
        return Ok(true);
    }
    if let Some(other) = args
        .iter()
        .find(|a| !matches!(**a, "--accept" | "--no-build"))
    {
        bail!("unknown option `{other}`\n\n{HELP}");
    }
    machine::prepare_instructions()?;
    let programs = if args.contains(&"--no-build") {
        Programs::places(workspace)
    } else {
        Programs::build_rust(workspace)?
    };
    let mut counts = Vec::new();
    for (broker, row, fill) in ROWS {
        let name = format!("{broker}/{row}");
        let count =
            count(&programs, broker, row, *fill).with_context(|| format!("cannot count {name}"))?;
        println!("{name}: {} instructions an event", number(count));
        counts.push((name, count));
    }
    let file = workspace.path(FILE);
    let before = read(&file)?;
    println!("\n{}", shown(&counts, &before));
    if args.contains(&"--accept") {
        write(&file, &counts)?;
        return Ok(true);
    }
    let grown = grown(&counts, &before);
    for line in &grown {
        println!("GROWN: {line}");
    }
    Ok(grown.is_empty())
}

/// Instructions per event, from two runs that differ only in the number of events.
fn count(programs: &Programs, broker: &str, row: &str, fill: Option<&str>) -> Result<f64> {
    let place = Place::make(&programs.scratch, "instructions", broker == "redis")?;
    let mut counts = [f64::MAX, f64::MAX];
    for (which, events) in (0..ROUNDS).flat_map(|_| [(0, FEW), (1, MANY)]) {
        place.empty()?;
        let options = |row: &str| {
            let mut words = vec![row.to_owned(), "--events".to_owned(), events.to_string()];
            words.extend(place.options());
            words
        };
        if let Some(fill) = fill {
            super::program::call(programs.command("bench-ours").args(options(fill)))?;
        }
        let found = collected(&programs.program("bench-ours"), &options(row))?;
        counts[which] = counts[which].min(found);
    }
    Ok((counts[1] - counts[0]) / (MANY - FEW) as f64)
}

/// All instructions of one process, over all of its threads.
fn collected(program: &Path, options: &[String]) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(options)
        // One runtime thread: fewer threads spend less time stealing work from each other.
        .env("TOKIO_WORKER_THREADS", "1")
        .stdin(Stdio::null());
    let output = valgrind.output().context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` failed: {said}", command::shown(&valgrind));
    }
    let line = said
        .lines()
        .find_map(|line| line.split_once("Collected :").map(|(_, count)| count));
    let count = line.context("valgrind counted nothing")?;
    Ok(count.trim().parse()?)
}

fn read(file: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| "{}".to_owned());
    let json: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    Ok(json["instructions"]
        .as_object()
        .cloned()
        .unwrap_or_default())
}

fn write(file: &Path, counts: &[(String, f64)]) -> Result<()> {
    let rustc = command::capture(Command::new("rustc").arg("--version"))?;
    let counts: Map<String, Value> = counts
        .iter()
        .map(|(name, count)| (name.clone(), (count.round() as u64).into()))
        .collect();
    let json = json!({
        "what": "instructions an event; written by `cargo xtask instructions --accept`",
        "rustc": rustc.trim(),
        "instructions": counts,
    });
    std::fs::write(file, format!("{json:#}\n"))?;
    println!("wrote {}", file.display());
    Ok(())
}

fn shown(counts: &[(String, f64)], before: &Map<String, Value>) -> String {
    let rows: Vec<Vec<String>> = counts
        .iter()
        .map(|(name, count)| {
            let old = before.get(name).and_then(Value::as_f64);
            vec![
                name.clone(),
                number(*count),
                old.map_or_else(|| "–".to_owned(), number),
                old.map_or_else(
                    || "–".to_owned(),
                    |old| format!("{:+.1}%", (count / old - 1.0) * 100.0),
                ),
            ]
        })
        .collect();
    table(&["an event", "instructions", "committed", "change"], &rows)
}

/// The counts that exceed the committed count by more than the tolerance.
fn grown(counts: &[(String, f64)], before: &Map<String, Value>) -> Vec<String> {
    counts
        .iter()
        .filter_map(|(name, count)| {
            let old = before.get(name)?.as_f64()?;
            (*count > old * (1.0 + TOLERANCE))
                .then(|| format!("{name}: {} instead of {}", number(*count), number(old)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: f64) -> Vec<(String, f64)> {
        vec![("sqlite/drain".to_owned(), count)]
    }

    #[test]
    fn only_what_is_beyond_the_tolerance_has_grown() {
        let mut before = Map::new();
        before.insert("sqlite/drain".to_owned(), json!(1000));
        assert!(grown(&counts(1_090.0), &before).is_empty());
        assert!(grown(&counts(500.0), &before).is_empty());
        assert_eq!(grown(&counts(1_200.0), &before).len(), 1);
        assert!(
            grown(&counts(1_200.0), &Map::new()).is_empty(),
            "new rows are no regression"
        );
    }

    #[test]
    fn the_table_shows_the_change() {
        let mut before = Map::new();
        before.insert("sqlite/drain".to_owned(), json!(1000));
        let text = shown(&counts(1_100.0), &before);
        assert!(
            text.contains("| sqlite/drain | 1,100 | 1,000 | +10.0% |"),
            "{text}"
        );
    }
}
