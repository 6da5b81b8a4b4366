//! The rows shared with other systems, and their cost as the backlog grows.

use std::time::Instant;

use bench_common::process::{self, READY};
use bench_common::{Args, Result, TodoCreated, load, tally};
use serde_json::Value;
use termitary::prelude::*;

use crate::events::{Neighbour, TALLY, Todo, clocks, no_ops, open, with_neighbour};

/// A broker whose registry handles the published events, so that they are kept.
async fn publisher(args: &Args) -> Result<Broker> {
    let broker = open(args).await?;
    broker.register(&no_ops(args)).await?;
    Ok(broker)
}

pub(crate) async fn publish(args: &Args, callers: usize) -> Result<Value> {
    let bus = publisher(args).await?.bus();
    let time = load::closed(callers, args.events, move |event| {
        let bus = bus.clone();
        async move {
            bus.publish(Todo(event)).await?;
            Ok(())
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

/// `publish_all`: 500 a call over Redis, four calls at once; 100 a call on SQLite.
pub(crate) async fn publish_bulk(args: &Args) -> Result<Value> {
    let bus = publisher(args).await?.bus();
    let (flying, size) = if args.url.is_empty() {
        (1, 100)
    } else {
        (4, 500)
    };
    let time = load::batches(flying, size, args.events, move |events| {
        let bus = bus.clone();
        async move {
            bus.publish_all(events.into_iter().map(Todo)).await?;
            Ok(())
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

/// Publishes events of the neighbour.
pub(crate) async fn fill_neighbour(args: &Args) -> Result<Value> {
    let broker = open(args).await?;
    broker.register(&with_neighbour(args)).await?;
    let bus = broker.bus();
    let time = load::batches(2, 500, args.events, move |events| {
        let bus = bus.clone();
        async move {
            bus.publish_all(events.into_iter().map(Neighbour)).await?;
            Ok(())
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

/// Drains `--events` that another process published. The time ends when the worker has settled and
/// stopped; `handledSeconds` ends when the last of these events was handled, if more wait behind
/// them.
pub(crate) async fn drain(args: &Args, registry: Registry<()>) -> Result<Value> {
    TALLY.expect(args.events);
    let broker = open(args).await?;
    let worker = Worker::new(broker, registry).concurrency(args.concurrency * 2);
    let start = Instant::now();
    let mut handled = Err("the worker ended early".into());
    worker
        .run(async { handled = TALLY.complete().await.map(|()| start.elapsed()) })
        .await?;
    let mut result = tally::rate(args.events, start.elapsed());
    result["handledSeconds"] = handled?.as_secs_f64().into();
    result["memoryAtEnd"] = process::memory_now().into();
    Ok(result)
}

pub(crate) async fn latency(args: &Args) -> Result<Value> {
    let broker = open(args).await?;
    broker.register(&clocks(args)).await?;
    let worker = process::start_worker(args)?;
    let bus = broker.bus();
    load::open(args.rate, args.events, move |event| {
        let bus = bus.clone();
        async move {
            bus.publish(Todo(event)).await?;
            Ok(())
        }
    })
    .await?;
    worker.result()
}

pub(crate) async fn latency_worker(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let worker = Worker::new(open(args).await?, clocks(args)).concurrency(args.concurrency * 2);
    println!("{READY}");
    let mut complete = Ok(());
    worker
        .run(async { complete = TALLY.complete().await })
        .await?;
    complete?;
    Ok(TALLY.latency())
}

/// Time from the start of the process without a database file to the first handled event.
pub(crate) async fn cold_start(args: &Args, start: Instant) -> Result<Value> {
    TALLY.expect(1);
    let broker = open(args).await?;
    broker.register(&no_ops(args)).await?;
    broker.bus().publish(Todo(TodoCreated::now(0))).await?;
    let mut handled = None;
    Worker::new(broker, no_ops(args))
        .run(async {
            let _ = TALLY.complete().await;
            handled = Some(start.elapsed());
        })
        .await?;
    let handled = handled.ok_or("the event was not handled")?;
    Ok(tally::rate(1, handled))
}
