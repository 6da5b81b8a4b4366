//! The speed at which worker processes finish a backlog, from the start signal until
//! the last event is handled and acknowledged.

use std::time::{Duration, Instant};

use crate::report::{Bytes, Draining, Speed, Storage, rounded};
use crate::stage::{Space, Stage};

/// The longest wait for Redis to drop finished entries after the last one.
const TRIMMED: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);

/// Measures the speed, and the bytes of an event before and after.
pub(crate) async fn run(stage: &Stage, number: u64) -> anyhow::Result<(Draining, Storage)> {
    let events = stage.args.events;
    let space = stage.space().await?;
    let empty = space.bytes().await?;
    let broker = space.open().await?;
    stage.fill(&broker, events).await?;
    broker.db().close().await;
    let pending = space.bytes().await?;

    let broker = space.open().await?;
    let mut workers = space.workers(number, false).await?;
    let what = match number {
        1 => "drain, one worker".to_owned(),
        number => format!("drain, {number} workers"),
    };
    stage.progress.step(&what, events);
    let (before, start) = (stage.cpu(Some(&workers)).await, Instant::now());
    workers.go().await?;
    stage.finished(&broker, &workers, events).await?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(Some(&workers)).await.since(before);
    if stage.server.is_some() {
        trimmed(stage, &space, pending).await?;
    }
    let farewells = workers.stop().await?;
    broker.db().close().await;
    let storage = Storage {
        pending_bytes_per_event: per_event(pending, empty, events),
        finished_bytes_per_event: per_event(space.bytes().await?, empty, events),
    };
    space.remove().await?;
    let draining = Draining {
        workers: number,
        speed: Speed::new(events, seconds, &used),
        peak_resident_bytes: farewells.iter().filter_map(|f| f.peak_resident_bytes).max(),
    };
    Ok((draining, storage))
}

/// Waits until the workers have trimmed finished entries, as they do over time.
async fn trimmed(stage: &Stage, space: &Space<'_>, pending: Bytes) -> anyhow::Result<()> {
    stage.progress.step("waiting for the trim", 0);
    let start = Instant::now();
    while start.elapsed() < TRIMMED {
        let now = space.bytes().await?;
        if now.redis.unwrap_or(0.0) <= pending.redis.unwrap_or(0.0) / 50.0 {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn per_event(now: Bytes, empty: Bytes, events: u64) -> Bytes {
    let each = |bytes: f64, empty: f64| rounded((bytes - empty).max(0.0) / events.max(1) as f64);
    Bytes {
        database: each(now.database, empty.database),
        redis: Option::zip(now.redis, empty.redis).map(|(now, empty)| each(now, empty)),
    }
}
