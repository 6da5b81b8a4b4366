//! `tx.publish` in a transaction of each caller, moved to a worker process, leased, handled and
//! finished in the ledger: end to end.

use std::time::Instant;

use bench_common::process::{self, READY};
use bench_common::{Args, Result, load, tally};
use serde_json::{Value, json};
use termitary::prelude::*;

use crate::events::{TALLY, Todo, no_ops, open};

pub(crate) async fn run(args: &Args) -> Result<Value> {
    let broker = open(args).await?;
    broker.register(&no_ops(args)).await?;
    let worker = process::start_as(args, "transactional-worker")?;
    let db = broker.db().clone();
    let start = Instant::now();
    let published = load::closed(args.callers, args.events, move |event| {
        let db = db.clone();
        async move {
            let mut tx = db.begin().await?;
            tx.publish(Todo(event)).await?;
            tx.commit().await?;
            Ok(())
        }
    })
    .await?;
    let of_worker = worker.result()?;
    let mut result = tally::rate(args.events, start.elapsed());
    result["publishSeconds"] = published.as_secs_f64().into();
    result["worker"] = of_worker;
    Ok(result)
}

pub(crate) async fn worker(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let worker = Worker::new(open(args).await?, no_ops(args)).concurrency(args.concurrency * 2);
    println!("{READY}");
    let mut complete = Ok(());
    worker
        .run(async { complete = TALLY.complete().await })
        .await?;
    complete?;
    Ok(json!({ "cpuSeconds": process::cpu_seconds(), "peakMemory": process::peak_memory() }))
}
