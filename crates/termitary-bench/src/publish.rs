//! The speed of publishing outside transactions, while no worker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use termitary::Broker;
use tokio::task::JoinSet;

use crate::event;
use crate::progress::Progress;
use crate::report::Speed;
use crate::stage::Stage;

/// Measures `producers` tasks, each of which awaits one publish after the other.
pub(crate) async fn awaited(stage: &Stage, events: u64, producers: u64) -> anyhow::Result<Speed> {
    let what = match producers {
        1 => "publish, one awaited at a time".to_owned(),
        tasks => format!("publish, {tasks} at once"),
    };
    let space = stage.space().await?;
    let broker = space.open().await?;
    stage.progress.step(&what, events);
    let (before, start) = (stage.cpu(None).await, Instant::now());
    let mut tasks = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..producers {
        tasks.spawn(produce(
            broker.clone(),
            Arc::clone(&next),
            events,
            stage.progress.clone(),
        ));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(None).await.since(before);
    broker.db().close().await;
    space.remove().await?;
    Ok(Speed::new(events, seconds, &used))
}

async fn produce(
    broker: Broker,
    next: Arc<AtomicU64>,
    events: u64,
    progress: Progress,
) -> anyhow::Result<()> {
    let bus = broker.bus();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= events {
            return Ok(());
        }
        bus.publish(event::created(number)).await?;
        if number.is_multiple_of(64) {
            progress.done(number);
        }
    }
}

/// Measures `publish_all`, with [`CALLS`](crate::stage::CALLS) calls at once.
pub(crate) async fn all(stage: &Stage, events: u64) -> anyhow::Result<Speed> {
    let space = stage.space().await?;
    let broker = space.open().await?;
    stage.progress.step("publish_all", events);
    let (before, start) = (stage.cpu(None).await, Instant::now());
    stage.batches(&broker, events, event::created).await?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(None).await.since(before);
    broker.db().close().await;
    space.remove().await?;
    Ok(Speed::new(events, seconds, &used))
}
