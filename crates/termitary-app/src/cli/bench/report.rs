//! What was measured, as it is printed with `--json`. The form is described in
//! docs/guide/benchmarks.md; [`FORMAT`] rises when a field changes its meaning.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(super) const FORMAT: u32 = 1;

/// Everything; what was not asked for is null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) format: u32,
    pub(super) version: &'static str,
    pub(super) build: &'static str,
    pub(super) at: Timestamp,
    pub(super) machine: Machine,
    pub(super) broker: &'static str,
    pub(super) redis: Option<RedisFacts>,
    pub(super) database: DatabaseFacts,
    pub(super) settings: Settings,
    pub(super) publish: Publish,
    pub(super) drain: Drain,
    pub(super) latency: Option<Latency>,
    pub(super) transactional: Option<Transactional>,
    pub(super) storage: Option<Storage>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    pub(super) cpu: Option<String>,
    pub(super) cores: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) system: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedisFacts {
    pub(super) server: String,
    pub(super) version: String,
    pub(super) append_only: bool,
    /// Null where the server does not say.
    pub(super) append_fsync: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DatabaseFacts {
    pub(super) kind: &'static str,
    pub(super) journal: &'static str,
    pub(super) synchronous: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    pub(super) events: u64,
    pub(super) payload_bytes: usize,
    pub(super) producers: u64,
    pub(super) batch: usize,
    pub(super) calls: usize,
    pub(super) concurrency: usize,
    pub(super) workers: u64,
    pub(super) rate: u64,
    pub(super) idle_subscriptions: u64,
    pub(super) backlog: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Publish {
    pub(super) one: Option<Speed>,
    pub(super) concurrent: Option<Speed>,
    pub(super) all: Option<Speed>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Drain {
    pub(super) one: Option<Draining>,
    pub(super) several: Option<Draining>,
}

/// So many events in so many seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Speed {
    pub(super) events: u64,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    pub(super) cpu_seconds_per100k: Cpu,
}

impl Speed {
    pub(super) fn new(events: u64, seconds: f64, cpu: &Cpu) -> Self {
        Self {
            events,
            seconds,
            per_second: rounded(events as f64 / seconds.max(1e-9)),
            cpu_seconds_per100k: cpu.per_100k(events),
        }
    }
}

/// Seconds of CPU, user and system; null where it cannot be known.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cpu {
    /// Of the process that publishes and measures.
    pub(super) publisher: Option<f64>,
    /// Of all worker processes together.
    pub(super) workers: Option<f64>,
    /// Of the Redis server, whoever else uses it.
    pub(super) redis: Option<f64>,
}

impl Cpu {
    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
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
pub(super) struct Draining {
    pub(super) workers: u64,
    #[serde(flatten)]
    pub(super) speed: Speed,
    /// Of the largest worker.
    pub(super) peak_resident_bytes: Option<u64>,
}

/// From the planned publish to the start of the handler.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    pub(super) rate: u64,
    pub(super) events: u64,
    pub(super) per_second: f64,
    #[serde(flatten)]
    pub(super) spread: Spread,
    /// How far the publisher itself fell behind its plan at worst.
    pub(super) publisher_behind_ms: f64,
    pub(super) cpu_seconds_per100k: Cpu,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    #[serde(rename = "p50Ms")]
    pub(super) p50: f64,
    #[serde(rename = "p99Ms")]
    pub(super) p99: f64,
    #[serde(rename = "p999Ms")]
    pub(super) p999: f64,
    #[serde(rename = "maxMs")]
    pub(super) max: f64,
}

impl Spread {
    /// Of these microseconds, in any order.
    pub(super) fn of(mut micros: Vec<u64>) -> Option<Self> {
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        // The smallest value that so many parts of a thousand do not exceed.
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
pub(super) struct Transactional {
    /// From the first begin until everything is finished in the ledger.
    #[serde(flatten)]
    pub(super) speed: Speed,
    /// Of the commits alone.
    pub(super) committed_per_second: f64,
    pub(super) peak_resident_bytes: Option<u64>,
}

/// Bytes an event takes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Storage {
    pub(super) pending_bytes_per_event: Bytes,
    pub(super) finished_bytes_per_event: Bytes,
}

#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bytes {
    pub(super) database: f64,
    pub(super) redis: Option<f64>,
}

/// With three decimals: more would be noise.
pub(super) fn rounded(number: f64) -> f64 {
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
