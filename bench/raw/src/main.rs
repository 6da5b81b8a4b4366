//! The raw limits: the work of the other systems without any safety or comfort. No system on this
//! machine can be faster.

mod journey;
mod redis_latency;
mod redis_rows;
mod sqlite_rows;

use bench_common::{Args, Result, process};

#[tokio::main]
async fn main() -> Result {
    let args = Args::read()?;
    let result = match args.row.as_str() {
        "redis-publish-one" => redis_rows::publish(&args, 1).await?,
        "redis-publish-64" => redis_rows::publish(&args, args.callers).await?,
        "redis-publish-bulk" => redis_rows::publish_bulk(&args).await?,
        "redis-drain-serial" => redis_rows::drain(&args, false).await?,
        "redis-drain" => redis_rows::drain(&args, true).await?,
        "redis-latency" => redis_latency::run(&args).await?,
        "latency-worker" => return redis_latency::worker(&args).await,
        "redis-transactional" => journey::run(&args).await?,
        "redis-transactional-worker" => {
            println!("{}", journey::worker(&args).await?);
            return Ok(());
        }
        "sqlite-publish-one" => sqlite_rows::publish_one(&args)?,
        "sqlite-publish-64" => sqlite_rows::publish_callers(&args).await?,
        "sqlite-publish-bulk" => sqlite_rows::publish_bulk(&args)?,
        "sqlite-drain" => sqlite_rows::drain(&args)?,
        row => return Err(format!("there is no row {row}").into()),
    };
    process::report(result);
    Ok(())
}
