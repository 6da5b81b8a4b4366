//! apalis-sqlite: WAL, synchronous=FULL, batches of 100, polled every 5 ms. Only its migrations run
//! here, because its own `setup()` would switch off synchronous=FULL on one of the connections.

use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqlitePool, SqliteStorage};
use bench_common::process::{self, READY};
use bench_common::{Args, Result, TodoCreated, load, tally};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::{TALLY, clock, no_op};

const QUEUE: &str = "todos";

async fn open(args: &Args) -> Result<(SqliteStorage<TodoCreated>, SqlitePool)> {
    let options = SqliteConnectOptions::new()
        .filename(&args.file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new()
        .max_connections(5)
        .acquire_timeout(Duration::from_secs(120))
        .connect_with(options)
        .await?;
    SqliteStorage::migrations().run(&pool).await?;
    let config = Config::default().queue(QUEUE).batch_size(100);
    Ok((SqliteStorage::new(&pool).with_config(config), pool))
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
    let time = load::batches(1, 100, args.events, move |events| {
        let mut storage = storage.clone();
        async move { Ok(storage.push_bulk(events).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

pub(crate) async fn drain(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let (storage, pool) = open(args).await?;
    let worker = WorkerBuilder::new("bench")
        .backend(storage.poll_with_interval(Duration::from_millis(5)))
        .parallelize(tokio::spawn)
        .build(no_op);
    let start = Instant::now();
    tokio::spawn(worker.run());
    TALLY.complete().await?;
    let time = tally::settled(start, args.events, || async {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'")
            .fetch_one(&pool)
            .await?;
        Ok(done as usize)
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
