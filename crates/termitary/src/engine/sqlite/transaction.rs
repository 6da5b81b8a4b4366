//! A database transaction that turns share.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::commit_hook::{AfterDisk, CommitHook, Work};
use super::engine::{MOST, SHARED_FOR};
use super::startup::{BUSY, primary_code};
use crate::engine::Conn;
use crate::error::{Error, Kind};

/// A transaction that reads first and writes later would fail with `SQLITE_BUSY` at
/// once, whatever the busy timeout, so this one writes from the start. The first
/// savepoint is for [`nothing_lost`], the second for the first turn.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT termitary_all; SAVEPOINT termitary_turn_0";
/// The first statement of every commit. It fails if a statement or a caller ended the
/// transaction of [`BEGIN`], as a full disk does: later statements would be written
/// alone.
macro_rules! nothing_lost {
    () => {
        "RELEASE SAVEPOINT termitary_all"
    };
}
pub(crate) use nothing_lost;
/// SQLite's own wait is switched off: [`begin`] waits, and a transaction that has begun
/// meets no other writer.
const NO_PATIENCE: &str = "PRAGMA busy_timeout = 0";
/// The time during which [`begin`] retries without a pause.
const AT_ONCE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_millis(1);
/// A running statement counts as activity once in this number of SQLite's steps.
const STEPS: i32 = 4096;
const ROLLBACK: &str = "ROLLBACK";
/// Commits a transaction that has no last statements.
pub(crate) const COMMIT: &str = concat!(nothing_lost!(), "; COMMIT");

pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

/// A database transaction that is open, with the work of every turn in it.
pub(super) struct Transaction {
    pub(super) conn: Conn,
    /// The runtime that began it: another thread may commit it.
    runtime: Handle,
    since: Instant,
    /// The number of the savepoint at which the present turn began.
    savepoint: usize,
    /// The work that turns left for the commit.
    pub(super) left: Vec<Work>,
    /// The callers that wait for the commit.
    pub(super) kept: Vec<Reply>,
}

impl Transaction {
    pub(super) fn new(conn: Conn) -> Self {
        Self {
            conn,
            runtime: Handle::current(),
            since: Instant::now(),
            savepoint: 0,
            left: Vec::new(),
            kept: Vec::new(),
        }
    }

    pub(super) fn takes_more(&self) -> bool {
        self.since.elapsed() < SHARED_FOR && self.kept.len() < MOST
    }

    /// Keeps the work so far, whatever happens to the next turn.
    ///
    /// The statement is sent and not waited for: the round trip takes longer than the
    /// work, and later statements run after it. Each savepoint has a name of its own,
    /// so that going back to a missing one fails, with an error for everybody, instead
    /// of going back further. None is released before the commit: if the database
    /// transaction was lost, the next savepoint opens another one, and its release
    /// would commit that.
    pub(super) fn keep(&mut self) {
        self.savepoint += 1;
        let next = format!("SAVEPOINT termitary_turn_{}", self.savepoint);
        let execution = pin!(self.conn.execute(AssertSqlSafe(next)));
        // The first poll sends it.
        let _ = execution.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Goes back to the beginning of the turn.
    pub(super) async fn go_back(&mut self) -> Result<(), Error> {
        let back = format!("ROLLBACK TO SAVEPOINT termitary_turn_{}", self.savepoint);
        let undone = self.conn.execute(AssertSqlSafe(back)).await;
        undone.map(drop).map_err(|error| lost(error.into()))
    }

    /// Commits. Returns the hook's work for after the disk has it.
    pub(super) async fn commit(
        &mut self,
        hook: &dyn CommitHook,
    ) -> Result<Option<AfterDisk>, Error> {
        let committed = if self.left.is_empty() {
            run(&mut self.conn, COMMIT)
                .await
                .map(|()| None)
                .map_err(Error::from)
        } else {
            let left = std::mem::take(&mut self.left);
            hook.commit(&mut self.conn, left, &self.runtime).await
        };
        committed.map_err(lost)
    }
}

/// Explains the error of a missing savepoint.
fn lost(error: Error) -> Error {
    use std::error::Error as _;
    let says = |source: &dyn std::error::Error| source.to_string().contains("no such savepoint");
    if !error.source().is_some_and(says) {
        return error;
    }
    Error::new(
        Kind::Unavailable,
        "the database transaction was over before its commit, by a statement in it (a full disk, ON CONFLICT ROLLBACK, a COMMIT or ROLLBACK of its own): it counts as undone for everybody who shared it",
    )
    .caused_by(error)
}

/// Opens a connection to write on. Its transactions begin and end with statements of
/// this file: sqlx's guards would own the connection, and a pool costs a task and a
/// round trip to the database's thread. To sqlx a transaction is always open, so that
/// the ones it begins are savepoints. `activity` rises while a statement runs.
pub(super) async fn connect(
    options: &SqliteConnectOptions,
    activity: Arc<AtomicU64>,
) -> Result<Conn, sqlx::Error> {
    let mut conn = options.connect().await?;
    conn.lock_handle()
        .await?
        .set_progress_handler(STEPS, move || {
            activity.fetch_add(1, Ordering::Relaxed);
            true
        });
    std::mem::forget(conn.begin().await?);
    let mut conn = Conn::own(conn);
    roll_back(&mut conn).await?;
    run(&mut conn, NO_PATIENCE).await?;
    Ok(conn)
}

/// Begins a database transaction. Waits for other processes until `until`, and tries
/// once in any case. SQLite's own wait sleeps for milliseconds at a time, and a process
/// that retries more often gets all the turns.
pub(super) async fn begin(conn: &mut Conn, until: tokio::time::Instant) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    loop {
        let error = match run(conn, BEGIN).await {
            Err(error) if primary_code(&error) == Some(BUSY) => error,
            other => return other,
        };
        match began.elapsed() {
            _ if tokio::time::Instant::now() >= until => return Err(error),
            // The round trip to the database's thread is the pause.
            waited if waited < AT_ONCE => {}
            _ => tokio::time::sleep(REST).await,
        }
    }
}

/// Undoes the rest of a database transaction.
pub(super) async fn roll_back(conn: &mut Conn) -> Result<(), sqlx::Error> {
    run(conn, ROLLBACK).await
}

async fn run(conn: &mut Conn, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(conn).await.map(drop)
}
