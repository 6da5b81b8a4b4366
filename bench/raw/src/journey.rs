//! The whole path of a transactional event by hand. 64 callers await the group commit of their
//! rows, which are then added to a stream. Another process reads them, commits them as done, and
//! only then acknowledges and deletes them. Both wait for the disk outside the database's lock, as
//! Termitary does.

use std::fs::File;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bench_common::process::{self, READY};
use bench_common::{Args, Result, TodoCreated, event, tally};
use redis::aio::MultiplexedConnection;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc as channel;

use crate::redis_rows::{PAGE, connect, entries, finish, group, pipeline, read};
use crate::sqlite_rows::{Asked, GROUP, awaiting, open};

const OWED: &str = "INSERT INTO job (id, name, state, due, data) VALUES (?1, ?2, 1, ?3, ?4)";
const DONE: &str = "UPDATE job SET state = 2 WHERE id = ?1 AND state = 1";

/// Entries by their ids, each with its row.
type Page = Vec<(String, i64)>;

pub(crate) async fn run(args: &Args) -> Result<Value> {
    let mut redis = connect(args).await?;
    group(&mut redis).await?;
    let mut connection = without_waiting(args)?;
    // The last connection to close copies the log back; keep one open, so that this is outside the
    // measured time.
    let _open = without_waiting(args)?;
    let log = log(args)?;
    let worker = process::start_as(args, "redis-transactional-worker")?;
    let (sender, inbox) = mpsc::channel();
    let (commit, commits) = mpsc::channel();
    let (load, loads) = channel::unbounded_channel();
    let writer = std::thread::spawn(move || write(&mut connection, &inbox, &commit));
    let disk = std::thread::spawn(move || sync(&log, &commits, &load));
    let carrier = tokio::spawn(carry(redis, loads));
    let start = Instant::now();
    awaiting(args, sender).await?;
    let of_worker = worker.result()?;
    let time = start.elapsed();
    writer.join().map_err(|_| "the writer panicked")??;
    disk.join().map_err(|_| "the disk's thread panicked")??;
    carrier.await??;
    let mut result = tally::rate(args.events, time);
    result["worker"] = of_worker;
    Ok(result)
}

/// A connection whose commits do not wait for the disk and copy nothing back. SQLite's own busy
/// handler would sleep for milliseconds.
fn without_waiting(args: &Args) -> Result<Connection> {
    let connection = open(args)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.busy_handler(Some(|_| {
        std::thread::sleep(Duration::from_micros(50));
        true
    }))?;
    Ok(connection)
}

fn log(args: &Args) -> Result<File> {
    let path = format!("{}-wal", args.file.display());
    Ok(File::options().write(true).open(path)?)
}

fn write(
    connection: &mut Connection,
    inbox: &mpsc::Receiver<Asked>,
    commit: &mpsc::Sender<Vec<Asked>>,
) -> Result {
    while let Ok(first) = inbox.recv() {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut committed = Vec::with_capacity(GROUP);
        for (event, answer) in std::iter::once(first).chain(inbox.try_iter().take(GROUP - 1)) {
            let due = event::now_us() as i64;
            tx.prepare_cached(OWED)?.execute(params![
                row(&event)?,
                event::NAME,
                due,
                event.json()
            ])?;
            committed.push((event, answer));
        }
        tx.commit()?;
        commit.send(committed)?;
    }
    Ok(())
}

/// The number in the event's id.
fn row(event: &TodoCreated) -> Result<i64> {
    let number = event.id.rsplit('-').next().unwrap_or_default();
    Ok(number.parse::<i64>()? + 1)
}

/// Returns when the commits are on disk, for all callers that committed meanwhile.
fn sync(
    log: &File,
    commits: &mpsc::Receiver<Vec<Asked>>,
    load: &channel::UnboundedSender<Vec<TodoCreated>>,
) -> Result {
    while let Ok(first) = commits.recv() {
        let committed: Vec<_> = std::iter::once(first).chain(commits.try_iter()).collect();
        log.sync_data()?;
        let (events, answers): (Vec<_>, Vec<_>) = committed.into_iter().flatten().unzip();
        load.send(events)?;
        for answer in answers {
            let _ = answer.send(()); // a caller that is gone waits for nothing
        }
    }
    Ok(())
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

/// Prints its result when the last page is acknowledged.
pub(crate) async fn worker(args: &Args) -> Result<Value> {
    let (mut reader, acker) = (connect(args).await?, connect(args).await?);
    let (mut connection, log) = (without_waiting(args)?, log(args)?);
    let (sender, pages) = channel::unbounded_channel();
    let runtime = Handle::current();
    let finisher = std::thread::spawn(move || end(&mut connection, &log, pages, &acker, &runtime));
    println!("{READY}");
    let mut seen = 0;
    while seen < args.events {
        let page = page(&mut reader).await?;
        seen += page.len();
        sender.send(page)?;
    }
    drop(sender);
    tokio::task::spawn_blocking(|| finisher.join())
        .await?
        .map_err(|_| "the finisher panicked")??;
    Ok(json!({ "cpuSeconds": process::cpu_seconds(), "peakMemory": process::peak_memory() }))
}

async fn page(reader: &mut MultiplexedConnection) -> Result<Page> {
    let mut page = Vec::with_capacity(PAGE);
    let mut unread = Ok(());
    entries(read().query_async(reader).await?, |id, event| {
        match row(&event) {
            Ok(row) => page.push((id, row)),
            Err(error) => unread = Err(error),
        }
    })?;
    unread?;
    if page.is_empty() {
        return Err("no event came for 10 s".into());
    }
    Ok(page)
}

/// Commits a page as done, waits for the disk, then removes it from the stream while the next page
/// is committed.
fn end(
    connection: &mut Connection,
    log: &File,
    mut pages: channel::UnboundedReceiver<Page>,
    acker: &MultiplexedConnection,
    runtime: &Handle,
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
            if tx.prepare_cached(DONE)?.execute([row])? != 1 {
                return Err(format!("row {row} was not there to be done").into());
            }
        }
        tx.commit()?;
        log.sync_data()?;
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
