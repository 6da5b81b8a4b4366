//! Publishing in database transactions, end to end: from the first begin until every
//! event is handled and finished in the ledger, through the relay if there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use termitary::Db;
use tokio::task::JoinSet;

use crate::event;
use crate::report::{Speed, Transactional, rounded};
use crate::stage::Stage;

pub(crate) async fn run(stage: &Stage) -> anyhow::Result<Transactional> {
    let events = stage.args.events;
    let space = stage.space().await?;
    let broker = space.open().await?;
    let mut workers = space.workers(1, false).await?;
    workers.go().await?;
    let producers = stage.args.producers;
    let what = format!("transactional publish from {producers} tasks, handled meanwhile");
    stage.progress.step(&what, events);
    let (before, start) = (stage.cpu(Some(&workers)).await, Instant::now());
    let committed = async {
        produce(broker.db(), events, producers).await?;
        anyhow::Ok(start.elapsed().as_secs_f64())
    };
    let finished = stage.finished(&broker, &workers, events);
    let (committed, ()) = tokio::try_join!(committed, finished)?;
    let seconds = start.elapsed().as_secs_f64();
    let used = stage.cpu(Some(&workers)).await.since(before);
    let farewell = workers
        .stop()
        .await?
        .pop()
        .context("no worker said farewell")?;
    broker.db().close().await;
    space.remove().await?;
    Ok(Transactional {
        speed: Speed::new(events, seconds, &used),
        committed_per_second: rounded(events as f64 / committed.max(1e-9)),
        peak_resident_bytes: farewell.peak_resident_bytes,
    })
}

/// Commits one transaction per event, from `producers` tasks.
async fn produce(db: &Db, events: u64, producers: u64) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..producers {
        let (db, next) = (db.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= events {
                    return anyhow::Ok(());
                }
                let mut tx = db.begin().await?;
                tx.publish(event::created(number)).await?;
                tx.commit().await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
