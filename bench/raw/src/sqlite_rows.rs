//! SQLite: WAL, synchronous=FULL, one connection, one table with an index that
//! the claim can walk.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bench_common::{Args, Result, TodoCreated, event, load, tally};
use rusqlite::{Connection, Statement, Transaction, params};
use serde_json::Value;
use tokio::sync::oneshot;

/// Rows in one commit.
pub(crate) const GROUP: usize = 100;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS job (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        state INTEGER NOT NULL,
        due INTEGER NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS job_due ON job (due) WHERE state = 0;";
const INSERT: &str = "INSERT INTO job (name, state, due, data) VALUES (?1, 0, ?2, ?3)";
const CLAIM: &str = "UPDATE job SET state = 1 WHERE id IN (
        SELECT id FROM job WHERE state = 0 AND due <= ?1 ORDER BY due LIMIT ?2
    ) RETURNING id, data";
const DELETE: &str = "DELETE FROM job WHERE id = ?1";

pub(crate) fn open(args: &Args) -> Result<Connection> {
    let connection = Connection::open(&args.file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(16);
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn insert(statement: &mut Statement<'_>, event: &TodoCreated) -> Result {
    statement.execute(params![event::NAME, event::now_us() as i64, event.json()])?;
    Ok(())
}

pub(crate) fn publish_one(args: &Args) -> Result<Value> {
    let connection = open(args)?;
    let mut statement = connection.prepare(INSERT)?;
    let start = Instant::now();
    for number in 0..args.events {
        insert(&mut statement, &TodoCreated::now(number))?;
    }
    Ok(tally::rate(args.events, start.elapsed()))
}

pub(crate) fn publish_bulk(args: &Args) -> Result<Value> {
    let mut connection = open(args)?;
    let start = Instant::now();
    for from in (0..args.events).step_by(GROUP) {
        let tx = connection.transaction()?;
        for number in from..args.events.min(from + GROUP) {
            let mut statement = tx.prepare_cached(INSERT)?;
            insert(&mut statement, &TodoCreated::now(number))?;
        }
        tx.commit()?;
    }
    Ok(tally::rate(args.events, start.elapsed()))
}

/// Tasks that each await their own insert; one thread commits the waiting inserts.
pub(crate) async fn publish_callers(args: &Args) -> Result<Value> {
    let mut connection = open(args)?;
    let (sender, inbox) = mpsc::channel();
    let writer = std::thread::spawn(move || write(&mut connection, &inbox));
    let time = awaiting(args, sender).await?;
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(tally::rate(args.events, time))
}

/// An event, and the caller that waits until it is stored.
pub(crate) type Asked = (TodoCreated, oneshot::Sender<()>);

/// Callers that each await their own insert; returns the time of all of them.
pub(crate) async fn awaiting(args: &Args, writer: mpsc::Sender<Asked>) -> Result<Duration> {
    load::closed(args.callers, args.events, move |event| {
        let writer = writer.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            writer.send((event, answer))?;
            Ok(answered.await?)
        }
    })
    .await
}

fn write(connection: &mut Connection, inbox: &mpsc::Receiver<Asked>) -> Result {
    while let Ok(first) = inbox.recv() {
        let tx = connection.transaction()?;
        let mut answers = Vec::with_capacity(GROUP);
        for (event, answer) in std::iter::once(first).chain(inbox.try_iter().take(GROUP - 1)) {
            let mut statement = tx.prepare_cached(INSERT)?;
            insert(&mut statement, &event)?;
            answers.push(answer);
        }
        tx.commit()?;
        for answer in answers {
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// Claims 100 and commits, parses, deletes these and commits. Another row has filled the file.
pub(crate) fn drain(args: &Args) -> Result<Value> {
    let mut connection = open(args)?;
    let start = Instant::now();
    let mut done = 0;
    while done < args.events {
        let tx = connection.transaction()?;
        let claimed = claim(&tx)?;
        tx.commit()?;
        let tx = connection.transaction()?;
        for id in &claimed {
            tx.prepare_cached(DELETE)?.execute([id])?;
        }
        tx.commit()?;
        if claimed.is_empty() {
            return Err("rows are missing".into());
        }
        done += claimed.len();
    }
    Ok(tally::rate(args.events, start.elapsed()))
}

fn claim(tx: &Transaction<'_>) -> Result<Vec<i64>> {
    let mut statement = tx.prepare_cached(CLAIM)?;
    let mut rows = statement.query(params![event::now_us() as i64, GROUP as i64])?;
    let mut ids = Vec::with_capacity(GROUP);
    while let Some(row) = rows.next()? {
        let event: TodoCreated = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        std::hint::black_box(event);
        ids.push(row.get(0)?);
    }
    Ok(ids)
}
