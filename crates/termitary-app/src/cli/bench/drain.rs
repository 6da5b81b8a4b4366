//! How fast worker processes finish a backlog: from the word "go" until the
//! last event is handled and acknowledged.

use std::time::{Duration, Instant};

use super::report::{Bytes, Draining, Speed, Storage, rounded};
use super::stage::{Space, Stage};

/// Finished entries leave Redis this long after the last at the latest.
const TRIMMED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);

/// The speed, and what the events took before and after.
pub(super) async fn run(stage: &Stage, workers: u64) -> anyhow::Result<(Draining, Storage)> {
    let events = stage.args.events;
    let space = stage.space().await?;
    let empty = space.bytes().await?;
    let broker = space.open().await?;
    stage.fill(&broker, events).await?;
    broker.db().close().await;
    let pending = space.bytes().await?;

    let broker = space.open().await?;
    let mut crew = space.crew(workers, false).await?;
    let what = match workers {
        1 => "drain, one worker".to_owned(),
        workers => format!("drain, {workers} workers"),
    };
    stage.progress.step(&what, events);
    let (before, start) = (stage.cpu(Some(&crew)).await, Instant::now());
    crew.go().await?;
    stage.finished(&broker, &crew, events).await?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(Some(&crew)).await.since(before);
    if stage.server.is_some() {
        trimmed(stage, &space, pending).await?;
    }
    let farewells = crew.stop().await?;
    broker.db().close().await;
    let storage = Storage {
        pending_bytes_per_event: per_event(pending, empty, events),
        finished_bytes_per_event: per_event(space.bytes().await?, empty, events),
    };
    space.remove().await?;
    let draining = Draining {
        workers,
        speed: Speed::new(events, seconds, &used),
        peak_resident_bytes: farewells.iter().filter_map(|f| f.peak_resident_bytes).max(),
    };
    Ok((draining, storage))
}

/// Waits until the workers have trimmed what is finished, as they do in the
/// long run.
async fn trimmed(stage: &Stage, space: &Space<'_>, pending: Bytes) -> anyhow::Result<()> {
    stage.progress.step("waiting for the trim", 0);
    let start = Instant::now();
    while start.elapsed() < TRIMMED {
        let now = space.bytes().await?;
        if now.redis.unwrap_or(0.0) <= pending.redis.unwrap_or(0.0) / 50.0 {
            break;
        }
        tokio::time::sleep(LOOK).await;
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
