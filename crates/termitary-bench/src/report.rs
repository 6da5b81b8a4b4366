//! The figures, as `--json` prints them. docs/guide/benchmarks.md describes the
//! format; [`FORMAT`] rises when a field changes its meaning.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) const FORMAT: u32 = 1;

/// The result of a run: serialises to the JSON of `--json`, and prints as text with
/// [`conditions`](Report::conditions), [`rows`](Report::rows) and
/// [`notes`](Report::notes). Measurements that did not run are null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub(crate) format: u32,
    pub(crate) version: &'static str,
    pub(crate) build: &'static str,
    pub(crate) at: Timestamp,
    pub(crate) machine: Machine,
    pub(crate) broker: &'static str,
    pub(crate) redis: Option<RedisFacts>,
    pub(crate) database: DatabaseFacts,
    pub(crate) settings: Settings,
    pub(crate) publish: Publish,
    pub(crate) drain: Drain,
    pub(crate) latency: Option<Latency>,
    pub(crate) transactional: Option<Transactional>,
    pub(crate) storage: Option<Storage>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) cpu: Option<String>,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) system: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedisFacts {
    pub(crate) server: String,
    pub(crate) version: String,
    pub(crate) append_only: bool,
    /// Null if the server does not tell.
    pub(crate) append_fsync: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DatabaseFacts {
    pub(crate) kind: &'static str,
    pub(crate) journal: &'static str,
    pub(crate) synchronous: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) events: u64,
    pub(crate) payload_bytes: usize,
    pub(crate) producers: u64,
    pub(crate) batch: usize,
    pub(crate) calls: usize,
    pub(crate) concurrency: usize,
    pub(crate) workers: u64,
    pub(crate) rate: u64,
    pub(crate) idle_subscriptions: u64,
    pub(crate) backlog: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Publish {
    pub(crate) one: Option<Speed>,
    pub(crate) concurrent: Option<Speed>,
    pub(crate) all: Option<Speed>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drain {
    pub(crate) one: Option<Draining>,
    pub(crate) several: Option<Draining>,
}

/// A number of events and the time they took.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Speed {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) cpu_seconds_per100k: Cpu,
}

impl Speed {
    pub(crate) fn new(events: u64, seconds: f64, cpu: &Cpu) -> Self {
        Self {
            events,
            seconds,
            per_second: rounded(events as f64 / seconds.max(1e-9)),
            cpu_seconds_per100k: cpu.per_100k(events),
        }
    }
}

/// Seconds of CPU, user and system; null if unknown.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cpu {
    /// Of the process that publishes and measures.
    pub(crate) publisher: Option<f64>,
    /// Of all worker processes together.
    pub(crate) workers: Option<f64>,
    /// Of the Redis server, other clients included.
    pub(crate) redis: Option<f64>,
}

impl Cpu {
    /// The CPU used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let less = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Self {
            publisher: less(self.publisher, before.publisher),
            workers: less(self.workers, before.workers),
            redis: less(self.redis, before.redis),
        }
    }

    fn per_100k(&self, events: u64) -> Self {
        let scaled = |used: Option<f64>| Some(rounded(used? * 100_000.0 / events.max(1) as f64));
        Self {
            publisher: scaled(self.publisher),
            workers: scaled(self.workers),
            redis: scaled(self.redis),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Draining {
    pub(crate) workers: u64,
    #[serde(flatten)]
    pub(crate) speed: Speed,
    /// Of the largest worker.
    pub(crate) peak_resident_bytes: Option<u64>,
}

/// From the planned publish to the start of the handler.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    pub(crate) rate: u64,
    pub(crate) events: u64,
    pub(crate) per_second: f64,
    #[serde(flatten)]
    pub(crate) spread: Spread,
    /// The largest delay of the publisher behind its plan.
    pub(crate) publisher_behind_ms: f64,
    pub(crate) cpu_seconds_per100k: Cpu,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    #[serde(rename = "p50Ms")]
    pub(crate) p50: f64,
    #[serde(rename = "p99Ms")]
    pub(crate) p99: f64,
    #[serde(rename = "p999Ms")]
    pub(crate) p999: f64,
    #[serde(rename = "maxMs")]
    pub(crate) max: f64,
}

impl Spread {
    /// Of these microseconds, in any order.
    pub(crate) fn of(mut micros: Vec<u64>) -> Option<Self> {
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        // The smallest value that this many thousandths do not exceed.
        let at = |thousandths: usize| {
            let rank = (micros.len() * thousandths).div_ceil(1_000).max(1);
            micros[(rank - 1).min(last)] as f64 / 1_000.0
        };
        Some(Self {
            p50: at(500),
            p99: at(990),
            p999: at(999),
            max: at(1_000),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transactional {
    /// From the first begin until everything is finished in the ledger.
    #[serde(flatten)]
    pub(crate) speed: Speed,
    /// Of the commits alone.
    pub(crate) committed_per_second: f64,
    pub(crate) peak_resident_bytes: Option<u64>,
}

/// Bytes an event takes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Storage {
    pub(crate) pending_bytes_per_event: Bytes,
    pub(crate) finished_bytes_per_event: Bytes,
}

#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bytes {
    pub(crate) database: f64,
    pub(crate) redis: Option<f64>,
}

/// Rounds to three decimals: more would be noise.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread = Spread::of((1..=1_000).rev().collect());
        let expected = Spread {
            p50: 0.5,
            p99: 0.99,
            p999: 0.999,
            max: 1.0,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(Spread::of(vec![7]).map(|s| s.p50), Some(0.007));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn cpu_is_told_for_the_same_number_of_events() {
        let before = Cpu {
            publisher: Some(1.0),
            workers: None,
            redis: Some(0.5),
        };
        let after = Cpu {
            publisher: Some(3.0),
            workers: Some(1.0),
            redis: Some(0.75),
        };
        let used = after.since(before).per_100k(50_000);
        assert_eq!(
            (used.publisher, used.workers, used.redis),
            (Some(4.0), None, Some(0.5))
        );
    }
}
