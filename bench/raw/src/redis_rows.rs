//! Redis: streams by hand, with redis-rs.

use std::time::{Duration, Instant};

use bench_common::{Args, Result, TodoCreated, event, load, tally};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Value};

pub(crate) const STREAM: &str = "bench:raw";
pub(crate) const GROUP: &str = "bench";
/// Largest number of entries in one read.
pub(crate) const PAGE: usize = 256;

pub(crate) async fn connect(args: &Args) -> Result<MultiplexedConnection> {
    // A blocking read returns late on purpose.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let client = Client::open(args.url.as_str())?;
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

pub(crate) fn add(event: &TodoCreated) -> Cmd {
    let mut cmd = redis::cmd("XADD");
    cmd.arg(STREAM).arg("*");
    cmd.arg("t").arg(event::NAME).arg("d").arg(event.json());
    cmd
}

pub(crate) async fn group(connection: &mut MultiplexedConnection) -> Result {
    let mut cmd = redis::cmd("XGROUP");
    cmd.arg("CREATE")
        .arg(STREAM)
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM");
    Ok(cmd.query_async(connection).await?)
}

pub(crate) async fn publish(args: &Args, callers: usize) -> Result<serde_json::Value> {
    let connection = connect(args).await?;
    let time = load::closed(callers, args.events, move |event| {
        let mut connection = connection.clone();
        async move { Ok(add(&event).query_async(&mut connection).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

/// Pipelines of 500, four in flight.
pub(crate) async fn publish_bulk(args: &Args) -> Result<serde_json::Value> {
    let connection = connect(args).await?;
    let time = load::batches(4, 500, args.events, move |events| {
        let mut connection = connection.clone();
        async move { Ok(pipeline(&events).query_async(&mut connection).await?) }
    })
    .await?;
    Ok(tally::rate(args.events, time))
}

pub(crate) fn pipeline(events: &[TodoCreated]) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    for event in events {
        pipeline.add_command(add(event)).ignore();
    }
    pipeline
}

/// Reads pages of 256, parses the JSON, acknowledges and deletes; if `overlapped`, on a second
/// connection while the next page is read. Another row has filled the stream.
pub(crate) async fn drain(args: &Args, overlapped: bool) -> Result<serde_json::Value> {
    let mut reader = connect(args).await?;
    let acker = connect(args).await?;
    group(&mut reader).await?;
    let start = Instant::now();
    let mut ending = None;
    let mut done = 0;
    while done < args.events {
        let ids = page(&mut reader).await?;
        done += ids.len();
        let finish = finish(acker.clone(), ids);
        if overlapped {
            // One in flight: more would only queue up on that connection.
            if let Some(last) = ending.replace(tokio::spawn(finish)) {
                last.await??;
            }
        } else {
            finish.await?;
        }
    }
    if let Some(last) = ending {
        last.await??;
    }
    let time: Duration = start.elapsed();
    Ok(tally::rate(args.events, time))
}

/// Requests a page of new entries.
pub(crate) fn read() -> Cmd {
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(GROUP).arg("one");
    cmd.arg("COUNT").arg(PAGE).arg("BLOCK").arg(10_000);
    cmd.arg("STREAMS").arg(STREAM).arg(">");
    cmd
}

async fn page(reader: &mut MultiplexedConnection) -> Result<Vec<String>> {
    let mut ids = Vec::with_capacity(PAGE);
    entries(read().query_async(reader).await?, |id, event| {
        std::hint::black_box(event);
        ids.push(id);
    })?;
    Ok(ids)
}

pub(crate) async fn finish(mut connection: MultiplexedConnection, ids: Vec<String>) -> Result {
    let mut pipeline = redis::pipe();
    pipeline
        .cmd("XACK")
        .arg(STREAM)
        .arg(GROUP)
        .arg(&ids)
        .ignore();
    pipeline.cmd("XDEL").arg(STREAM).arg(&ids).ignore();
    Ok(pipeline.query_async(&mut connection).await?)
}

/// Parses a reply of XREADGROUP, without a map for each entry.
pub(crate) fn entries(reply: Value, mut each: impl FnMut(String, TodoCreated)) -> Result {
    let Value::Array(streams) = reply else {
        return Ok(());
    };
    for stream in streams {
        let Value::Array(mut stream) = stream else {
            return Err("a stream is an array".into());
        };
        let Some(Value::Array(found)) = stream.pop() else {
            return Err("a stream has entries".into());
        };
        for entry in found {
            let (id, data) = fields(entry).ok_or("an entry has an id and fields")?;
            each(String::from_utf8(id)?, serde_json::from_slice(&data)?);
        }
    }
    Ok(())
}

fn fields(entry: Value) -> Option<(Vec<u8>, Vec<u8>)> {
    let Value::Array(mut entry) = entry else {
        return None;
    };
    let Value::Array(mut fields) = entry.pop()? else {
        return None;
    };
    match (entry.pop()?, fields.pop()?) {
        (Value::BulkString(id), Value::BulkString(data)) => Some((id, data)),
        _ => None,
    }
}
