//! From publish to handler at a steady rate, in an open loop: an event is sent
//! when its time has come, whether or not the ones before it have arrived, and
//! its latency counts from that planned time, so that a stall is seen by every
//! event that it delays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use termitary::Broker;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::event;
use super::report::{Latency, Speed, rounded};
use super::stage::Stage;

/// Sent before the measurement: connections and caches are warm then.
const WARM: u64 = 100;
/// The system wakes a sleeper about this much late; the rest is waited for
/// awake.
const AWAKE: Duration = Duration::from_micros(80);

pub(super) async fn run(stage: &Stage) -> anyhow::Result<Latency> {
    let (rate, events) = (stage.args.rate, stage.args.latency_events());
    let space = stage.space().await?;
    let broker = space.open().await?;
    let mut crew = space.crew(1, true).await?;
    stage
        .progress
        .step(&format!("latency at {rate}/s"), WARM + events);
    crew.go().await?;
    for _ in 0..WARM {
        broker.bus().publish(event::created(0)).await?;
    }
    stage.handled(&crew, WARM).await?;
    let (before, start) = (stage.cpu(Some(&crew)).await, Instant::now());
    let sent = send(broker.clone(), rate, events);
    let handled = stage.handled(&crew, WARM + events);
    let (behind, ()) = tokio::try_join!(sent, handled)?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(Some(&crew)).await.since(before);
    let farewell = crew.stop().await?.pop();
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

/// Publishes by the plan; answers how far it fell behind at worst.
async fn send(broker: Broker, rate: u64, events: u64) -> anyhow::Result<Duration> {
    let (answer, mut answers) = mpsc::unbounded_channel();
    let stop = StopOnDrop(Arc::default());
    let (stopped, runtime) = (Arc::clone(&stop.0), Handle::current());
    // Timers of the runtime are a millisecond coarse: a thread keeps the time. It
    // starts each publish itself, as whoever it told would be measured too.
    let pacer = std::thread::spawn(move || {
        pace(rate, events, &stopped, |planned_us| {
            let (bus, answer) = (broker.bus(), answer.clone());
            runtime.spawn(async move {
                let _ = answer.send(bus.publish(event::created(planned_us)).await);
            });
        })
    });
    while let Some(published) = answers.recv().await {
        published?;
    }
    pacer.join().ok().context("the pacing thread failed")
}

/// Calls `each` at its time with that time; answers the worst delay.
fn pace(rate: u64, events: u64, stopped: &AtomicBool, each: impl Fn(u64)) -> Duration {
    let interval = Duration::from_secs(1).div_f64(rate as f64);
    let (start, start_us) = (Instant::now(), event::now_us());
    let mut behind = Duration::ZERO;
    for number in 0..events {
        let offset = interval.mul_f64(number as f64);
        // At high rates sleeping alone keeps the plan on average, and staying
        // awake would take a core from what is measured.
        let awake = if rate > 2_000 { Duration::ZERO } else { AWAKE };
        if let Some(sleep) = offset.checked_sub(start.elapsed() + awake) {
            std::thread::sleep(sleep);
        }
        while start.elapsed() < offset && !awake.is_zero() {
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

/// The thread ends soon after nobody wants its ticks any more.
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
