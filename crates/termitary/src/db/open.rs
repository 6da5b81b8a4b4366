//! A database transaction that turns share: begun, published into, committed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::carrier::{self, Cargo, Carrier};
use super::conn::Conn;
use super::patience::{BUSY, primary_code};
use super::{MOST, SHARED_FOR};
use crate::draft::Draft;
use crate::error::{Error, Kind};
use crate::ledger;

/// A transaction that reads first and writes later would fail with `SQLITE_BUSY` at once, whatever
/// the busy timeout: so it writes from the start. The first savepoint is that of [`nothing_lost`],
/// the second that of the first turn.
const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT termitary_all; SAVEPOINT termitary_turn_0";
/// The first statement of every commit. It fails if a statement or a caller ended the transaction
/// of [`BEGIN`], as a full disk does: later statements would otherwise be written alone.
macro_rules! nothing_lost {
    () => {
        "RELEASE SAVEPOINT termitary_all"
    };
}
pub(crate) use nothing_lost;
/// [`begin`] has it: once begun, nobody is in the way.
const NO_PATIENCE: &str = "PRAGMA busy_timeout = 0";
/// For so long another process's lock is asked for without a rest.
const AT_ONCE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_millis(1);
/// A statement that runs counts as activity once in so many steps of SQLite's.
const STEPS: i32 = 4096;
const ROLLBACK: &str = "ROLLBACK";

pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

/// A database transaction, and the owner of the work in it.
pub(super) struct Open {
    pub(super) conn: Conn,
    /// The runtime on which it was begun: another thread may commit it.
    runtime: Handle,
    since: Instant,
    /// Which savepoint the turn goes back to.
    savepoint: usize,
    /// To be published with the commit.
    pub(super) drafts: Vec<Draft>,
    pub(super) kept: Vec<Reply>,
}

impl Open {
    pub(super) fn new(conn: Conn) -> Self {
        Self {
            conn,
            runtime: Handle::current(),
            since: Instant::now(),
            savepoint: 0,
            drafts: Vec::new(),
            kept: Vec::new(),
        }
    }

    pub(super) fn takes_more(&self) -> bool {
        self.since.elapsed() < SHARED_FOR && self.kept.len() < MOST
    }

    /// Keeps the work so far, whatever the next turn does.
    ///
    /// Sent without waiting: the round trip takes longer than the work, and later statements run
    /// after it. Each savepoint has its own name: rolling back to a missing one fails, and all
    /// members get the error, instead of rolling back further. None is released before the commit:
    /// if the database transaction was lost, the next savepoint opens another one, and releasing it
    /// would commit that.
    pub(super) fn keep(&mut self) {
        self.savepoint += 1;
        let next = format!("SAVEPOINT termitary_turn_{}", self.savepoint);
        let execution = pin!(self.conn.execute(AssertSqlSafe(next)));
        // The first poll sends it.
        let _ = execution.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Goes back to where the turn began.
    pub(super) async fn go_back(&mut self) -> Result<(), Error> {
        let back = format!("ROLLBACK TO SAVEPOINT termitary_turn_{}", self.savepoint);
        let undone = self.conn.execute(AssertSqlSafe(back)).await;
        undone.map(drop).map_err(|error| lost(error.into()))
    }

    /// Publishes the drafts and commits; returns the events to carry once they are on disk.
    pub(super) async fn commit(&mut self, of: &Publisher) -> Result<Option<Onward>, Error> {
        self.publish_and_commit(of).await.map_err(lost)
    }

    async fn publish_and_commit(&mut self, of: &Publisher) -> Result<Option<Onward>, Error> {
        let (conn, source) = (&mut self.conn, &of.source);
        let carrier = of.carrier.get().filter(|_| !self.drafts.is_empty());
        if let Some(carrier) = carrier
            && let Some(trust) = carrier.trust(conn, &self.runtime).await?
        {
            let drafts = std::mem::take(&mut self.drafts);
            let cargo = ledger::lease_and_commit(conn, source, drafts, trust).await?;
            let runtime = self.runtime.clone();
            return Ok(cargo.map(|cargo| Onward {
                carrier,
                cargo,
                runtime,
            }));
        }
        ledger::publish_and_commit(conn, source, &self.drafts).await?;
        Ok(None)
    }
}

/// The source of published events, and their carrier.
pub(super) struct Publisher {
    pub(super) source: String,
    pub(super) carrier: carrier::Slot,
}

/// The events to carry after the commit, on the runtime that committed them.
pub(super) struct Onward {
    carrier: Arc<dyn Carrier>,
    cargo: Cargo,
    runtime: Handle,
}

impl Onward {
    pub(super) fn go(self) {
        self.carrier.load(self.cargo);
        self.runtime.spawn(self.carrier.carry());
    }
}

/// The error for a missing savepoint.
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

/// A connection for writing. Its transactions begin and end with statements of ours: sqlx's guards
/// take the connection along, and returning it to a pool costs a task and a round trip to the
/// database's thread. For sqlx a transaction is always open, so anything it begins inside is a
/// savepoint. `activity` rises while a statement runs.
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

/// Begins a database transaction; waits for other processes until `until`, and tries at least once.
/// SQLite's own busy handler sleeps for milliseconds where a fraction of one would do, and a caller
/// that tries more often gets all the turns.
pub(super) async fn begin(conn: &mut Conn, until: tokio::time::Instant) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    loop {
        let error = match run(conn, BEGIN).await {
            Err(error) if primary_code(&error) == Some(BUSY) => error,
            answer => return answer,
        };
        match began.elapsed() {
            _ if tokio::time::Instant::now() >= until => return Err(error),
            // Asking is a way to another thread and back: that is the rest.
            waited if waited < AT_ONCE => {}
            _ => tokio::time::sleep(REST).await,
        }
    }
}

/// Rolls back any open database transaction.
pub(super) async fn roll_back(conn: &mut Conn) -> Result<(), sqlx::Error> {
    run(conn, ROLLBACK).await
}

async fn run(conn: &mut Conn, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(conn).await.map(drop)
}
