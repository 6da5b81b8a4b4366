//! Counts and times of the handlers of a drain or of a latency run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{Result, TodoCreated};

/// Time limit of a measurement.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Counts handled events; one for each process.
#[derive(Debug)]
pub struct Tally {
    handled: AtomicUsize,
    expected: AtomicUsize,
    complete: Notify,
    ages: Mutex<Vec<u64>>,
}

impl Tally {
    /// No event handled yet.
    pub const fn new() -> Self {
        Self {
            handled: AtomicUsize::new(0),
            expected: AtomicUsize::new(usize::MAX),
            complete: Notify::const_new(),
            ages: Mutex::new(Vec::new()),
        }
    }

    /// Sets the number of expected events.
    pub fn expect(&self, events: usize) {
        self.expected.store(events, Ordering::Relaxed);
    }

    /// The no-op handler of a drain.
    pub fn handled(&self) {
        if self.handled.fetch_add(1, Ordering::Relaxed) + 1 == self.expected.load(Ordering::Relaxed)
        {
            self.complete.notify_one();
        }
    }

    /// The handler of a latency run: counts like [`Tally::handled`], and records the delay of its
    /// start.
    pub fn started(&self, event: &TodoCreated) {
        let age = event.age().as_micros() as u64;
        self.ages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(age);
        self.handled();
    }

    /// Waits until every expected event was handled.
    pub async fn complete(&self) -> Result {
        let all = self.complete.notified();
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let handled = self.handled.load(Ordering::Relaxed);
            return Err(format!("only {handled} events were handled in {PATIENCE:?}").into());
        }
        Ok(())
    }

    /// The latencies, as a result.
    pub fn latency(&self) -> Value {
        latency(&mut self.ages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// Percentiles of latencies in µs.
pub fn latency(ages: &mut [u64]) -> Value {
    ages.sort_unstable();
    let at = |share: f64| -> u64 {
        let index = (share * ages.len() as f64).ceil() as usize;
        ages.get(index.clamp(1, ages.len().max(1)) - 1)
            .copied()
            .unwrap_or(0)
    };
    json!({
        "events": ages.len(),
        "p50Us": at(0.5),
        "p99Us": at(0.99),
        "p999Us": at(0.999),
        "maxUs": at(1.0),
    })
}

/// A rate, as a result.
pub fn rate(events: usize, time: Duration) -> Value {
    json!({
        "events": events,
        "seconds": time.as_secs_f64(),
        "perSecond": events as f64 / time.as_secs_f64(),
    })
}

/// Calls `count` until it returns `expected`, because handled events are not yet acknowledged.
/// Returns the time since `start`.
pub async fn settled<F, Fut>(start: Instant, expected: usize, mut count: F) -> Result<Duration>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<usize>>,
{
    loop {
        let now = count().await?;
        if now == expected {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("{now} of {expected} were settled in {PATIENCE:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut ages: Vec<u64> = (1..=1000).rev().collect();
        let found = latency(&mut ages);
        assert_eq!(found["p50Us"], 500);
        assert_eq!(found["p99Us"], 990);
        assert_eq!(found["p999Us"], 999);
        assert_eq!(found["maxUs"], 1000);
    }

    #[test]
    fn no_event_has_no_latency() {
        assert_eq!(latency(&mut [])["p99Us"], 0);
    }
}
