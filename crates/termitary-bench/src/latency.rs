//! The latency from publish to handler at a steady rate, in an open loop: each event
//! is sent at its planned time, even if earlier ones have not arrived, and its
//! latency counts from that time, so a stall shows in every event that it delays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use termitary::Broker;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::event;
use crate::report::{Latency, Speed, rounded};
use crate::stage::Stage;

/// Events sent before the measurement, to warm connections and caches.
const WARM: u64 = 100;
/// The system wakes a sleeper about this much late, so the last part of each wait
/// is a spin loop.
const SPIN: Duration = Duration::from_micros(80);

pub(crate) async fn run(stage: &Stage) -> anyhow::Result<Latency> {
    let (rate, events) = (stage.args.rate, stage.args.latency_events());
    let space = stage.space().await?;
    let broker = space.open().await?;
    let mut workers = space.workers(1, true).await?;
    stage
        .progress
        .step(&format!("latency at {rate}/s"), WARM + events);
    workers.go().await?;
    for _ in 0..WARM {
        broker.bus().publish(event::created(0)).await?;
    }
    stage.handled(&workers, WARM).await?;
    let (before, start) = (stage.cpu(Some(&workers)).await, Instant::now());
    let sent = send(broker.clone(), rate, events);
    let handled = stage.handled(&workers, WARM + events);
    let (behind, ()) = tokio::try_join!(sent, handled)?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(Some(&workers)).await.since(before);
    let farewell = workers.stop().await?.pop();
    broker.db().close().await;
    space.remove().await?;
    let spread = farewell.and_then(|farewell| farewell.latency);
    let speed = Speed::new(events, seconds, &used);
    Ok(Latency {
        rate,
        events,
        per_second: speed.per_second,
        spread: spread.context("the worker measured nothing")?,
        publisher_behind_ms: rounded(behind.as_secs_f64() * 1_000.0),
        cpu_seconds_per100k: speed.cpu_seconds_per100k,
    })
}

/// Publishes by the plan; returns the longest delay behind it.
async fn send(broker: Broker, rate: u64, events: u64) -> anyhow::Result<Duration> {
    let (result, mut results) = mpsc::unbounded_channel();
    let stop = StopOnDrop(Arc::default());
    let (stopped, runtime) = (Arc::clone(&stop.0), Handle::current());
    // The runtime's timers are a millisecond coarse, so a thread keeps the time. It
    // starts each publish itself: handing the event on would be measured too.
    let pacer = std::thread::spawn(move || {
        pace(rate, events, &stopped, |planned_us| {
            let (bus, result) = (broker.bus(), result.clone());
            runtime.spawn(async move {
                let _ = result.send(bus.publish(event::created(planned_us)).await);
            });
        })
    });
    while let Some(published) = results.recv().await {
        published?;
    }
    pacer.join().ok().context("the pacing thread failed")
}

/// Calls `each` at its planned time with that time; returns the longest delay.
fn pace(rate: u64, events: u64, stopped: &AtomicBool, each: impl Fn(u64)) -> Duration {
    let interval = Duration::from_secs(1).div_f64(rate as f64);
    let (start, start_us) = (Instant::now(), event::now_us());
    let mut behind = Duration::ZERO;
    for number in 0..events {
        let offset = interval.mul_f64(number as f64);
        // At high rates sleeping alone keeps the plan on average, and spinning would
        // take a core from the measured processes.
        let spin = if rate > 2_000 { Duration::ZERO } else { SPIN };
        if let Some(sleep) = offset.checked_sub(start.elapsed() + spin) {
            std::thread::sleep(sleep);
        }
        while start.elapsed() < offset && !spin.is_zero() {
            std::hint::spin_loop();
        }
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        behind = behind.max(start.elapsed().saturating_sub(offset));
        each(start_us + offset.as_micros() as u64);
    }
    behind
}

/// Ends the pacing thread when dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn ticks_are_planned_evenly_however_late_they_come() {
        let ticks = Mutex::new(Vec::new());
        pace(1_000, 5, &AtomicBool::new(false), |planned| {
            ticks.lock().unwrap().push(planned);
        });
        let ticks = ticks.into_inner().unwrap();
        assert!(
            ticks.windows(2).all(|pair| pair[1] - pair[0] == 1_000),
            "{ticks:?}"
        );
        assert!(ticks[4] <= event::now_us());
    }

    #[test]
    fn a_plan_that_nobody_wants_any_more_ends() {
        let ticks = Mutex::new(0);
        pace(1, u64::MAX, &AtomicBool::new(true), |_| {
            *ticks.lock().unwrap() += 1;
        });
        assert_eq!(ticks.into_inner().unwrap(), 0);
    }
}
