//! apalis-redis: fetched in batches of 100, every 5 ms; its deliveries are locked and acknowledged
//! by default. 9,000 or more waiting jobs cannot be measured: its script then fails with "too many
//! results to unpack".

use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use bench_common::process::{self, READY};
use bench_common::{Args, Result, TodoCreated, load, tally};
use serde_json::Value;

use crate::{TALLY, clock, no_op};

const QUEUE: &str = "todos";

async fn open(args: &Args) -> Result<(RedisStorage<TodoCreated>, ConnectionManager)> {
    let connection = apalis_redis::connect(args.url.as_str()).await?;
    let config = Config::default().queue(QUEUE).batch_size(100);
    let storage = RedisStorage::new(connection.clone()).with_config(config);
    Ok((storage, connection))
}

pub(crate) async fn publish(args: &Args, callers: usize) -> Result<Value> {
    let (storage, _) = open(args).await?;
    let time = load::closed(callers, args.events, move |event| {
        let mut storage = storage.clone();
        async move { Ok(storage.push(event).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

pub(crate) async fn publish_bulk(args: &Args) -> Result<Value> {
    let (storage, _) = open(args).await?;
    let time = load::batches(4, 500, args.events, move |events| {
        let mut storage = storage.clone();
        async move { Ok(storage.push_bulk(events).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

pub(crate) async fn drain(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let (storage, connection) = open(args).await?;
    let done = storage.get_config().done_jobs_set();
    let worker = WorkerBuilder::new("bench")
        .backend(storage.poll_with_interval(Duration::from_millis(5)))
        .parallelize(tokio::spawn)
        .build(no_op);
    let start = Instant::now();
    tokio::spawn(worker.run());
    TALLY.complete().await?;
    let time = tally::settled(start, args.events, || {
        let (mut connection, done) = (connection.clone(), done.clone());
        async move {
            let done: usize = redis::cmd("SCARD")
                .arg(done)
                .query_async(&mut connection)
                .await?;
            Ok(done)
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

pub(crate) async fn latency(args: &Args) -> Result<Value> {
    let (storage, _) = open(args).await?;
    let worker = process::start_worker(args)?;
    load::open(args.rate, args.events, move |event| {
        let mut storage = storage.clone();
        async move { Ok(storage.push(event).await?) }
    })
    .await?;
    worker.result()
}

pub(crate) async fn latency_worker(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let (storage, _) = open(args).await?;
    let worker = WorkerBuilder::new("bench")
        .backend(storage.poll_with_interval(Duration::from_millis(5)))
        .parallelize(tokio::spawn)
        .build(clock);
    tokio::spawn(worker.run());
    println!("{READY}");
    TALLY.complete().await?;
    Ok(TALLY.latency())
}
