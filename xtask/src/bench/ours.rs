//! Termitary's own rows, through `termitary bench --json`: the same measurement that users make on
//! their machines.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::build::Programs;
use super::place::Place;
use super::program::call;
use crate::steps::sheltered;

/// Number of events that a worker handles at once: the same as in the other systems.
const CONCURRENCY: &str = "100";

/// The position of a row in the report, and the options that select it.
struct Found {
    only: &'static str,
    path: &'static str,
    /// Number of the report's events for one event of the row: awaited publishes use a tenth.
    times: usize,
}

fn found(row: &str) -> Result<Found> {
    let (only, path, times) = match row {
        "publish-one" => ("publish-one", "/publish/one", 10),
        "publish-64" => ("publish-concurrent", "/publish/concurrent", 1),
        "publish-bulk" => ("publish-all", "/publish/all", 1),
        "drain" => ("drain-one", "/drain/one", 1),
        "latency" => ("latency", "/latency", 1),
        "transactional" => ("transactional", "/transactional", 1),
        row => bail!("`termitary bench` has no row {row}"),
    };
    Ok(Found { only, path, times })
}

/// Measures one row.
pub(crate) fn measure(
    programs: &Programs,
    place: &Place,
    broker: &str,
    row: &str,
    events: usize,
) -> Result<Value> {
    let found = found(row)?;
    let mut command = sheltered(Command::new(programs.termitary()));
    command
        .args(["bench", "--json", "--broker", broker, "--only", found.only])
        .args(["--events", &(events * found.times).to_string()])
        .env("TERMITARY_CONCURRENCY", CONCURRENCY)
        .envs(place.settings());
    if row == "transactional" {
        command.arg("--transactional");
    }
    let report = call(&mut command)?;
    let part = report
        .pointer(found.path)
        .with_context(|| format!("the output of `termitary bench` has no {}", found.path))?;
    Ok(result(part))
}

/// A part of the report in the format of the other programs.
fn result(part: &Value) -> Value {
    let mut result = json!({ "events": part["events"] });
    let mut copy = |to: &str, from: Option<f64>| {
        if let Some(value) = from {
            result[to] = value.into();
        }
    };
    let number = |name: &str| part[name].as_f64();
    let us = |name: &str| number(name).map(|ms| ms * 1000.0);
    if part["p50Ms"].is_number() {
        copy("p50Us", us("p50Ms"));
        copy("p99Us", us("p99Ms"));
        copy("p999Us", us("p999Ms"));
        copy("maxUs", us("maxMs"));
        return result;
    }
    copy("seconds", number("seconds"));
    copy("perSecond", number("perSecond"));
    copy("peakMemory", number("peakResidentBytes"));
    // The process that does the work: a worker if there is one.
    let cpu = &part["cpuSecondsPer100k"];
    let used = cpu["workers"]
        .as_f64()
        .or_else(|| cpu["publisher"].as_f64());
    copy("cpuPer100k", used);
    copy("serverCpuPer100k", cpu["redis"].as_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_of_the_report_has_the_form_of_the_others() {
        let part = json!({
            "workers": 1, "events": 50_000, "seconds": 0.5, "perSecond": 100_000.0,
            "cpuSecondsPer100k": { "publisher": 9.0, "workers": 1.5, "redis": 0.5 },
            "peakResidentBytes": 10_000_000,
        });
        let expected = json!({
            "events": 50_000, "seconds": 0.5, "perSecond": 100_000.0, "peakMemory": 10_000_000.0,
            "cpuPer100k": 1.5, "serverCpuPer100k": 0.5,
        });
        assert_eq!(result(&part), expected);
    }

    #[test]
    fn latency_is_in_microseconds() {
        let part = json!({ "events": 5, "perSecond": 500.0, "p50Ms": 0.15, "p99Ms": 0.5, "p999Ms": 1.0, "maxMs": 2.0 });
        assert_eq!(result(&part)["p50Us"], 150.0);
        assert_eq!(result(&part)["maxUs"], 2000.0);
        assert_eq!(result(&part)["perSecond"], Value::Null);
    }
}
