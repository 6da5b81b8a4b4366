//! apalis 1.0 on Redis and on SQLite.

mod on_redis;
mod on_sqlite;

use bench_common::{Args, Result, Tally, TodoCreated, process};

static TALLY: Tally = Tally::new();

async fn no_op(event: TodoCreated) {
    std::hint::black_box(&event);
    TALLY.handled();
}

async fn clock(event: TodoCreated) {
    TALLY.started(&event);
}

#[tokio::main]
async fn main() -> Result {
    let args = Args::read()?;
    let result = match (args.row.as_str(), args.url.is_empty()) {
        ("publish-one", false) => on_redis::publish(&args, 1).await?,
        ("publish-64", false) => on_redis::publish(&args, args.callers).await?,
        ("publish-bulk", false) => on_redis::publish_bulk(&args).await?,
        ("drain", false) => on_redis::drain(&args).await?,
        ("latency", false) => on_redis::latency(&args).await?,
        ("latency-worker", false) => on_redis::latency_worker(&args).await?,
        ("publish-one", true) => on_sqlite::publish(&args, 1).await?,
        ("publish-64", true) => on_sqlite::publish(&args, args.callers).await?,
        ("publish-bulk", true) => on_sqlite::publish_bulk(&args).await?,
        ("drain", true) => on_sqlite::drain(&args).await?,
        ("latency", true) => on_sqlite::latency(&args).await?,
        ("latency-worker", true) => on_sqlite::latency_worker(&args).await?,
        (row, _) => return Err(format!("there is no row {row}").into()),
    };
    process::report(result);
    std::process::exit(0);
}
