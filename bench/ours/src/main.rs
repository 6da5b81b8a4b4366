//! Termitary as a library, for measurements beyond `termitary bench`: the rows of other systems in
//! the same harness, and the cost under growing load.

mod events;
mod rows;
mod transactional;

use std::time::Instant;

use bench_common::{Args, Result, process};

#[tokio::main]
async fn main() -> Result {
    let start = Instant::now();
    let args = Args::read()?;
    let result = match args.row.as_str() {
        "publish-one" => rows::publish(&args, 1).await?,
        "publish-64" => rows::publish(&args, args.callers).await?,
        "publish-bulk" => rows::publish_bulk(&args).await?,
        "drain" => rows::drain(&args, events::no_ops(&args)).await?,
        "fill-neighbour" => rows::fill_neighbour(&args).await?,
        "drain-neighbour" => rows::drain(&args, events::with_neighbour(&args)).await?,
        "latency" => rows::latency(&args).await?,
        "latency-worker" => {
            println!("{}", rows::latency_worker(&args).await?);
            return Ok(());
        }
        "transactional" => transactional::run(&args).await?,
        "transactional-worker" => {
            println!("{}", transactional::worker(&args).await?);
            return Ok(());
        }
        "cold-start" => rows::cold_start(&args, start).await?,
        row => return Err(format!("there is no row {row}").into()),
    };
    process::report(result);
    Ok(())
}
