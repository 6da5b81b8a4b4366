//! The whole way of a transactional event, with nothing kept safe but the two
//! commits: 64 callers await the group commit of their rows, which then are added to
//! a stream; another process reads them, commits that they are done, and only then
//! acknowledges and deletes them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bench_common::process::{self, READY};
use bench_common::{Args, Result, TodoCreated, event, load, tally};
use redis::aio::MultiplexedConnection;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};
use tokio::sync::{mpsc as channel, oneshot};

use crate::redis_rows::{PAGE, connect, entries, finish, group, pipeline, read};
use crate::sqlite_rows::{GROUP, open};

const OWED: &str = "INSERT INTO job (id, name, state, due, data) VALUES (?1, ?2, 1, ?3, ?4)";
const DONE: &str = "UPDATE job SET state = 2 WHERE id = ?1";

pub(crate) async fn run(args: &Args) -> Result<Value> {
    let mut redis = connect(args).await?;
    group(&mut redis).await?;
    let mut connection = patient(args)?;
    let worker = process::start_as(args, "redis-transactional-worker")?;
    let (sender, inbox) = mpsc::channel();
    let (load, loads) = channel::unbounded_channel();
    let writer = std::thread::spawn(move || write(&mut connection, &inbox, &load));
    let carrier = tokio::spawn(carry(redis, loads));
    let start = Instant::now();
    load::closed(args.callers, args.events, move |event| {
        let sender = sender.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            sender.send((event, answer))?;
            Ok(answered.await?)
        }
    })
    .await?;
    writer.join().map_err(|_| "the writer panicked")??;
    carrier.await??;
    let of_worker = worker.result()?;
    let mut result = tally::rate(args.events, start.elapsed());
    result["worker"] = of_worker;
    Ok(result)
}

/// As SQLite's own patience sleeps for milliseconds.
fn patient(args: &Args) -> Result<Connection> {
    let connection = open(args)?;
    connection.busy_handler(Some(|_| {
        std::thread::sleep(Duration::from_micros(50));
        true
    }))?;
    Ok(connection)
}

type Inbox = mpsc::Receiver<(TodoCreated, oneshot::Sender<()>)>;

fn write(
    connection: &mut Connection,
    inbox: &Inbox,
    load: &channel::UnboundedSender<Vec<TodoCreated>>,
) -> Result {
    while let Ok(first) = inbox.recv() {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut events, mut answers) = (Vec::with_capacity(GROUP), Vec::with_capacity(GROUP));
        for (event, answer) in std::iter::once(first).chain(inbox.try_iter().take(GROUP - 1)) {
            let due = event::now_us() as i64;
            tx.prepare_cached(OWED)?.execute(params![
                row(&event)?,
                event::NAME,
                due,
                event.json()
            ])?;
            events.push(event);
            answers.push(answer);
        }
        tx.commit()?;
        load.send(events)?;
        for answer in answers {
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// The number in its id.
fn row(event: &TodoCreated) -> Result<i64> {
    let number = event.id.rsplit('-').next().unwrap_or_default();
    Ok(number.parse::<i64>()? + 1)
}

async fn carry(
    mut redis: MultiplexedConnection,
    mut loads: channel::UnboundedReceiver<Vec<TodoCreated>>,
) -> Result {
    while let Some(events) = loads.recv().await {
        pipeline(&events).query_async::<()>(&mut redis).await?;
    }
    Ok(())
}

pub(crate) async fn worker(args: &Args) -> Result<Value> {
    let (mut reader, acker) = (connect(args).await?, connect(args).await?);
    let mut connection = patient(args)?;
    let (sender, pages) = channel::unbounded_channel::<Vec<(String, i64)>>();
    let runtime = tokio::runtime::Handle::current();
    let finisher = std::thread::spawn(move || end(&mut connection, pages, &acker, &runtime));
    println!("{READY}");
    let mut seen = 0;
    while seen < args.events {
        let mut page = Vec::with_capacity(PAGE);
        let mut unread = Ok(());
        entries(
            read().query_async(&mut reader).await?,
            |id, event| match row(&event) {
                Ok(row) => page.push((id, row)),
                Err(error) => unread = Err(error),
            },
        )?;
        unread?;
        if page.is_empty() {
            return Err("no event came for 10 s".into());
        }
        seen += page.len();
        sender.send(page)?;
    }
    drop(sender);
    tokio::task::spawn_blocking(|| finisher.join())
        .await?
        .map_err(|_| "the finisher panicked")??;
    Ok(json!({ "cpuSeconds": process::cpu_seconds(), "peakMemory": process::peak_memory() }))
}

/// Commits what was read that these are done, then ends them on the stream.
fn end(
    connection: &mut Connection,
    mut pages: channel::UnboundedReceiver<Vec<(String, i64)>>,
    acker: &MultiplexedConnection,
    runtime: &tokio::runtime::Handle,
) -> Result {
    let mut ending = None;
    while let Some(mut page) = pages.blocking_recv() {
        while page.len() < PAGE
            && let Ok(more) = pages.try_recv()
        {
            page.extend(more);
        }
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (_, row) in &page {
            tx.prepare_cached(DONE)?.execute([row])?;
        }
        tx.commit()?;
        let ids = page.into_iter().map(|(id, _)| id).collect();
        if let Some(last) = ending.replace(runtime.spawn(finish(acker.clone(), ids))) {
            runtime.block_on(last)??;
        }
    }
    match ending {
        Some(last) => runtime.block_on(last)?,
        None => Ok(()),
    }
}
