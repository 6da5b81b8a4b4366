//! rusty-sidekiq: at most once (BRPOP, no job is held in flight), without a bulk call. The PING at
//! every check-out of its pool is switched off, which makes it half as fast again.

use std::time::Instant;

use async_trait::async_trait;
use bench_common::process::{self, READY};
use bench_common::{Args, Result, Tally, TodoCreated, load, tally};
use serde_json::Value;
use sidekiq::{Processor, ProcessorConfig, RedisConnectionManager, RedisPool, Worker};

static TALLY: Tally = Tally::new();

/// Handlers of the drain.
struct NoOp;

#[async_trait]
impl Worker<TodoCreated> for NoOp {
    async fn perform(&self, event: TodoCreated) -> sidekiq::Result<()> {
        std::hint::black_box(&event);
        TALLY.handled();
        Ok(())
    }
}

/// Handlers of the latency run.
struct Clock;

#[async_trait]
impl Worker<TodoCreated> for Clock {
    async fn perform(&self, event: TodoCreated) -> sidekiq::Result<()> {
        TALLY.started(&event);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result {
    let args = Args::read()?;
    let result = match args.row.as_str() {
        "publish-one" => publish(&args, 1).await?,
        "publish-64" => publish(&args, args.callers).await?,
        "drain" => drain(&args).await?,
        "latency" => latency(&args).await?,
        "latency-worker" => {
            println!("{}", work(&args, true).await?);
            return Ok(());
        }
        row => return Err(format!("there is no row {row}").into()),
    };
    process::report(result);
    // Its processor has workers that block for two seconds; waiting for them is of no use.
    std::process::exit(0);
}

async fn pool(args: &Args, size: usize) -> Result<RedisPool> {
    let manager = RedisConnectionManager::new(args.url.as_str())?;
    Ok(bb8::Pool::builder()
        .max_size(size as u32)
        .test_on_check_out(false)
        .build(manager)
        .await?)
}

async fn publish(args: &Args, callers: usize) -> Result<Value> {
    let pool = pool(args, callers).await?;
    let time = load::closed(callers, args.events, move |event| {
        let pool = pool.clone();
        async move { Ok(NoOp::perform_async(&pool, event).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

async fn drain(args: &Args) -> Result<Value> {
    work(args, false).await
}

async fn work(args: &Args, clock: bool) -> Result<Value> {
    const WORKERS: usize = 64;
    TALLY.expect(args.events);
    let pool = pool(args, WORKERS + 8).await?;
    let config = ProcessorConfig::default().num_workers(WORKERS);
    let mut processor = Processor::new(pool, vec!["default".into()]).with_config(config);
    if clock {
        processor.register(Clock);
        println!("{READY}");
    } else {
        processor.register(NoOp);
    }
    let start = Instant::now();
    tokio::spawn(processor.run());
    TALLY.complete().await?;
    if clock {
        return Ok(TALLY.latency());
    }
    Ok(tally::rate(args.events, start.elapsed()))
}

async fn latency(args: &Args) -> Result<Value> {
    let pool = pool(args, 64).await?;
    let worker = process::start_worker(args)?;
    load::open(args.rate, args.events, move |event| {
        let pool = pool.clone();
        async move { Ok(Clock::perform_async(&pool, event).await?) }
    })
    .await?;
    worker.result()
}
