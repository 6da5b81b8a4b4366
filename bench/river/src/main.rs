//! River for Rust on SQLite: WAL, synchronous=FULL, as its README opens the file; it fetches as
//! soon as it may (cool-down and polling at 1 ms, its minimum).

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bench_common::process::{self, READY};
use bench_common::{Args, Result, Tally, TodoCreated, event, load, tally};
use riverqueue::migrate::SqliteMigrator;
use riverqueue::{Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

static TALLY: Tally = Tally::new();

/// The event as a job of River.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Todo(TodoCreated);

impl JobArgs for Todo {
    const KIND: &'static str = event::NAME;
}

async fn no_op(_: WorkContext, job: Job<Todo>) -> Result<WorkOutcome, Infallible> {
    std::hint::black_box(&job.args);
    TALLY.handled();
    Ok(WorkOutcome::Complete)
}

async fn clock(_: WorkContext, job: Job<Todo>) -> Result<WorkOutcome, Infallible> {
    TALLY.started(&job.args.0);
    Ok(WorkOutcome::Complete)
}

#[tokio::main]
async fn main() -> Result {
    let args = Args::read()?;
    let result = match args.row.as_str() {
        "publish-one" => publish(&args, 1).await?,
        "publish-64" => publish(&args, args.callers).await?,
        "publish-bulk" => publish_bulk(&args).await?,
        "drain" => drain(&args).await?,
        "latency" => latency(&args).await?,
        "latency-worker" => {
            println!("{}", latency_worker(&args).await?);
            return Ok(());
        }
        row => return Err(format!("there is no row {row}").into()),
    };
    process::report(result);
    std::process::exit(0);
}

async fn open(args: &Args) -> Result<SqlitePool> {
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
    SqliteMigrator::new(pool.clone()).migrate_up().await?;
    Ok(pool)
}

async fn publisher(args: &Args) -> Result<Client> {
    let client = Client::builder(open(args).await?)
        .allow_unregistered_job_kinds()
        .build()?;
    Ok(client)
}

async fn publish(args: &Args, callers: usize) -> Result<Value> {
    let client = publisher(args).await?;
    let time = load::closed(callers, args.events, move |event| {
        let client = client.clone();
        async move {
            client.insert(Todo(event)).await?;
            Ok(())
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

async fn publish_bulk(args: &Args) -> Result<Value> {
    let client = publisher(args).await?;
    let time = load::batches(1, 100, args.events, move |events| {
        let client = client.clone();
        async move {
            client.insert_many(events.into_iter().map(Todo)).await?;
            Ok(())
        }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

fn worker(pool: SqlitePool, args: &Args, latency: bool) -> Result<Client> {
    let mut workers = Workers::new();
    if latency {
        workers.add_fn(clock)?;
    } else {
        workers.add_fn(no_op)?;
    }
    let soon = Duration::from_millis(1);
    let queue = QueueConfig::new(args.concurrency)
        .with_fetch_cooldown(soon)
        .with_fetch_poll_interval(soon);
    let client = Client::builder(pool)
        .workers(workers)
        .fetch_cooldown(soon)
        .queue("default", queue)
        .build()?;
    Ok(client)
}

async fn drain(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let pool = open(args).await?;
    let client = worker(pool.clone(), args, false)?;
    let start = Instant::now();
    let _run = client.start()?;
    TALLY.complete().await?;
    let time = tally::settled(start, args.events, || async {
        let done: i64 =
            sqlx::query_scalar("SELECT count(*) FROM river_job WHERE state = 'completed'")
                .fetch_one(&pool)
                .await?;
        Ok(done as usize)
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

async fn latency(args: &Args) -> Result<Value> {
    let client = publisher(args).await?;
    let worker = process::start_worker(args)?;
    load::open(args.rate, args.events, move |event| {
        let client = client.clone();
        async move {
            client.insert(Todo(event)).await?;
            Ok(())
        }
    })
    .await?;
    worker.result()
}

async fn latency_worker(args: &Args) -> Result<Value> {
    TALLY.expect(args.events);
    let client = worker(open(args).await?, args, true)?;
    let mut run = client.start()?;
    run.wait_ready().await?;
    println!("{READY}");
    TALLY.complete().await?;
    Ok(TALLY.latency())
}
