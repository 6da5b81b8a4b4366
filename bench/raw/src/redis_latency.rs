//! Redis: from the planned XADD in one process to the blocking XREADGROUP in
//! another.

use bench_common::process::{self, READY};
use bench_common::{Args, Result, Tally, load};

use crate::redis_rows::{GROUP, STREAM, add, connect, entries, group};

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
        let mut cmd = redis::cmd("XREADGROUP");
        cmd.arg("GROUP").arg(GROUP).arg("one");
        cmd.arg("COUNT").arg(256).arg("BLOCK").arg(10_000);
        cmd.arg("STREAMS").arg(STREAM).arg(">");
        let mut ids = Vec::new();
        entries(cmd.query_async(&mut reader).await?, |id, event| {
            TALLY.started(&event);
            ids.push(id);
        })?;
        if ids.is_empty() {
            return Err("no event came for 10 s".into());
        }
        seen += ids.len();
        let mut acker = acker.clone();
        tokio::spawn(async move {
            let mut pipeline = redis::pipe();
            pipeline
                .cmd("XACK")
                .arg(STREAM)
                .arg(GROUP)
                .arg(&ids)
                .ignore();
            pipeline.cmd("XDEL").arg(STREAM).arg(&ids).ignore();
            pipeline.query_async::<()>(&mut acker).await
        });
    }
    println!("{}", TALLY.latency());
    Ok(())
}
