//! Redis: from the planned XADD in one process to the blocking XREADGROUP in
//! another.

use bench_common::process::{self, READY};
use bench_common::{Args, Result, Tally, load};

use crate::redis_rows::{add, connect, entries, finish, group, read};

static TALLY: Tally = Tally::new();

pub(crate) async fn run(args: &Args) -> Result<serde_json::Value> {
    let connection = connect(args).await?;
    group(&mut connection.clone()).await?;
    let worker = process::start_worker(args)?;
    load::open(args.rate, args.events, move |event| {
        let mut connection = connection.clone();
        async move { Ok(add(&event).query_async(&mut connection).await?) }
    })
    .await?;
    worker.result()
}

pub(crate) async fn worker(args: &Args) -> Result {
    let mut reader = connect(args).await?;
    let acker = connect(args).await?;
    println!("{READY}");
    let mut seen = 0;
    while seen < args.events {
        let mut ids = Vec::new();
        entries(read().query_async(&mut reader).await?, |id, event| {
            TALLY.started(&event);
            ids.push(id);
        })?;
        if ids.is_empty() {
            return Err("no event arrived for 10 s".into());
        }
        seen += ids.len();
        tokio::spawn(finish(acker.clone(), ids));
    }
    println!("{}", TALLY.latency());
    Ok(())
}
