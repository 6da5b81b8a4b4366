//! The measurements of a run, as docs/benchmarks.json stores them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// Facts about the machine: name and value, in order.
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) rounds: usize,
    pub(crate) samples: Vec<Sample>,
    /// Failed measurements, with the error.
    pub(crate) failures: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// `broker/row`, or `flat/…`.
    pub(crate) row: String,
    pub(crate) system: String,
    /// The output of the program.
    pub(crate) result: Value,
    /// CPU seconds of the Redis server during the measurement.
    pub(crate) server_cpu: Option<f64>,
}

/// The median of several measurements, with the minimum and the maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

impl Run {
    /// A run that starts now.
    pub(crate) fn begin(facts: Vec<(String, String)>, rounds: usize) -> Self {
        Self {
            facts,
            rounds,
            ..Self::default()
        }
    }

    /// One figure of one system in one row.
    pub(crate) fn figure(&self, row: &str, system: &str, figure: &str) -> Option<Spread> {
        let samples = self.of(row, system);
        Spread::of(samples.filter_map(|s| s.figure(figure)).collect())
    }

    fn of<'a>(&'a self, row: &'a str, system: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |s| s.row == row && s.system == system)
    }

    /// The systems of a row, in the order they were measured.
    pub(crate) fn systems(&self, row: &str) -> Vec<&str> {
        let mut systems: Vec<&str> = Vec::new();
        for sample in self.samples.iter().filter(|s| s.row == row) {
            if !systems.contains(&sample.system.as_str()) {
                systems.push(&sample.system);
            }
        }
        systems
    }

    /// The points of a flatness row: the varied quantity, and a figure's spread.
    pub(crate) fn points(&self, row: &str, system: &str, figure: &str) -> Vec<(f64, Spread)> {
        let mut points: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for sample in self.of(row, system) {
            let at = sample.result["at"].as_u64();
            if let Some((at, value)) = at.zip(sample.figure(figure)) {
                points.entry(at).or_default().push(value);
            }
        }
        points
            .into_iter()
            .filter_map(|(at, values)| Some((at as f64, Spread::of(values)?)))
            .collect()
    }

    /// Writes the run as JSON, one sample a line.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let facts: Vec<Value> = self.facts.iter().map(|(k, v)| json!([k, v])).collect();
        let samples: Vec<String> = self.samples.iter().map(Sample::to_json).collect();
        let text = format!(
            "{{\n\"rounds\": {},\n\"facts\": {},\n\"failures\": {},\n\"samples\": [\n{}\n]\n}}\n",
            self.rounds,
            Value::from(facts),
            Value::from(self.failures.clone()),
            samples.join(",\n")
        );
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file written by [`Run::save`].
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a run", path.display()))
    }

    /// A run from its JSON.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)?;
        let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            rounds: json["rounds"].as_u64().context("no rounds")? as usize,
            facts: list("facts")
                .iter()
                .map(|fact| (text(&fact[0]), text(&fact[1])))
                .collect(),
            failures: list("failures").iter().map(text).collect(),
            samples: list("samples")
                .into_iter()
                .map(|mut sample| Sample {
                    row: text(&sample["row"]),
                    system: text(&sample["system"]),
                    server_cpu: sample["serverCpuSeconds"].as_f64(),
                    result: sample["result"].take(),
                })
                .collect(),
        })
    }
}

impl Sample {
    fn to_json(&self) -> String {
        let mut json = json!({ "row": self.row, "system": self.system, "result": self.result });
        if let Some(cpu) = self.server_cpu {
            json["serverCpuSeconds"] = cpu.into();
        }
        json.to_string()
    }

    /// A figure by its name in the result, or one derived from others.
    fn figure(&self, name: &str) -> Option<f64> {
        let number = |name: &str| self.result[name].as_f64();
        let per_100k = |seconds: f64| Some(seconds / number("events")? * 100_000.0);
        if let Some(told) = number(name) {
            return Some(told);
        }
        match name {
            "cpuPer100k" => per_100k(number("cpuSeconds")?),
            "serverCpuPer100k" => per_100k(self.server_cpu?),
            "usPerEvent" => Some(number("handledSeconds")? / number("events")? * 1e6),
            _ => None,
        }
    }

    /// A short form for the terminal.
    pub(crate) fn shown(result: &Value) -> String {
        let number = |name: &str| result[name].as_f64();
        match (number("perSecond"), number("p50Us").zip(number("p99Us"))) {
            (Some(rate), _) => format!("{rate:.0}/s"),
            (None, Some((p50, p99))) => format!("p50 {p50:.0} µs, p99 {p99:.0} µs"),
            _ => result.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        Sample {
            row: "redis/drain".to_owned(),
            system: "raw".to_owned(),
            result: json!({ "perSecond": value, "events": 1000, "cpuSeconds": 0.5, "at": 7 }),
            server_cpu: Some(0.25),
        }
    }

    fn run(values: &[f64]) -> Run {
        Run {
            facts: vec![("machine".to_owned(), "a \"quoted\" one".to_owned())],
            rounds: values.len(),
            samples: values.iter().copied().map(sample).collect(),
            failures: vec!["redis/drain/other: it ended".to_owned()],
        }
    }

    #[test]
    fn a_figure_is_the_median_with_what_it_lies_between() {
        let spread = run(&[30.0, 10.0, 20.0]).figure("redis/drain", "raw", "perSecond");
        let expected = Spread {
            median: 20.0,
            min: 10.0,
            max: 30.0,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(run(&[]).figure("redis/drain", "raw", "perSecond"), None);
        let even = run(&[10.0, 20.0]).figure("redis/drain", "raw", "perSecond");
        assert_eq!(even.map(|s| s.median), Some(15.0));
    }

    #[test]
    fn cpu_is_told_for_a_hundred_thousand_events() {
        let run = run(&[1.0]);
        let figure = |name| run.figure("redis/drain", "raw", name).map(|s| s.median);
        assert_eq!(figure("cpuPer100k"), Some(50.0));
        assert_eq!(figure("serverCpuPer100k"), Some(25.0));
    }

    #[test]
    fn a_run_is_read_as_it_was_saved() {
        let folder = std::env::temp_dir().join(format!("xtask-samples-{}", std::process::id()));
        assert!(std::fs::create_dir_all(&folder).is_ok());
        let path = folder.join("run.json");
        let run = run(&[3.0, 4.0]);
        assert!(run.save(&path).is_ok());
        assert_eq!(Run::load(&path).ok(), Some(run));
        assert!(std::fs::remove_dir_all(&folder).is_ok());
    }
}
