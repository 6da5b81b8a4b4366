//! Tests that run the real engine on a clock that stands still.
//!
//! ```
//! # use serde::{Deserialize, Serialize};
//! # use termitary::prelude::*;
//! use termitary::testing::{TestDb, TestWorker};
//! # #[derive(Serialize, Deserialize)]
//! # struct Ping {}
//! # impl Event for Ping { const NAME: &'static str = "ping"; }
//! # async fn pong(_: Ping) -> HandlerResult { Ok(()) }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), termitary::Error> {
//! let db = TestDb::open().await;
//! let broker = Broker::sql(db.db().clone());
//! let registry = Registry::new().on(subscribe("pong", pong));
//! let worker = TestWorker::start(broker.clone(), registry, ()).await;
//!
//! broker.bus().publish(Ping {}.after(days(3))).await?;
//! worker.advance(days(3)).await; // the clock moves, the real worker runs
//! assert_eq!(broker.inspect().status().await?.subscriptions[0].done, 1);
//! # Ok(()) }
//! ```
#![expect(clippy::panic, reason = "a harness fails its test by panicking")]

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::clock::Clock;
use crate::db::{Db, Options};
#[cfg(feature = "postgres")]
use crate::engine::Engine;
use crate::error::Error;
use crate::inspect::{Status, SubscriptionStatus};
use crate::ledger;
use crate::registry::Registry;
use crate::schedule::{Schedule, ticker};
use crate::worker::Worker;

#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresDatabase, TestPostgres};
#[cfg(feature = "redis")]
pub use self::redis::TestRedis;

/// Time limit for a test to settle.
const PATIENCE: Duration = Duration::from_secs(20);
/// 2026-01-15T12:00:00Z, a Thursday.
const START: i64 = 1_768_478_400;

/// A database in a temporary folder, with a manual clock. The folder is deleted with the last
/// handle to the database, which may be a broker's or a worker's.
pub struct TestDb {
    db: Db,
}

impl TestDb {
    /// A fresh database; the clock stands at 2026-01-15T12:00:00Z.
    pub async fn open() -> Self {
        let start = Timestamp::from_second(START).unwrap_or_default();
        Self::open_with(Clock::manual(start, 7)).await
    }

    /// A fresh database on this clock.
    pub async fn open_with(clock: Clock) -> Self {
        let folder = must(tempfile::tempdir(), "a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        let options = Options::default().clock(clock).within(folder);
        let db = must(Db::open_with(&url, options).await, "a test database");
        Self { db }
    }

    /// A fresh database on the PostgreSQL server that all tests of this process share; the
    /// clock stands at 2026-01-15T12:00:00Z.
    #[cfg(feature = "postgres")]
    pub async fn postgres() -> Self {
        let start = Timestamp::from_second(START).unwrap_or_default();
        Self::postgres_with(Clock::manual(start, 7)).await
    }

    /// [`TestDb::postgres`] on this clock.
    #[cfg(feature = "postgres")]
    pub async fn postgres_with(clock: Clock) -> Self {
        let made = tokio::task::spawn_blocking(|| TestPostgres::shared().create_database());
        let database = must(made.await, "a database on the shared server");
        let url = database.url().to_owned();
        let options = Options::default().clock(clock).within(database);
        let db = must(Db::open_with(&url, options).await, "a test database");
        Self { db }
    }

    /// The URL of the database, for another handle.
    pub fn url(&self) -> String {
        self.db.url()
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        self.db.clock()
    }
}

/// A real worker in the background. Its drop fails the test if deliveries are unfinished, dead
/// or parked, or if it cannot look for them.
pub struct TestWorker {
    broker: Broker,
    schedules: Vec<Schedule>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: Option<JoinHandle<()>>,
    leftovers: bool,
}

impl TestWorker {
    /// Registers and starts.
    pub async fn start<S>(broker: Broker, registry: Registry<S>, state: S) -> Self
    where
        S: Send + Sync + 'static,
    {
        must(
            broker.register(&registry).await,
            "a registry without mistakes",
        );
        let (stop, stopped) = oneshot::channel();
        let schedules = registry.schedules.clone();
        let worker = Worker::new(broker.clone(), registry)
            .state(state)
            .grace(Duration::from_secs(5));
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            must(worker.run(stopped).await, "a worker that runs");
        });
        Self {
            broker,
            schedules,
            stop: Mutex::new(Some(stop)),
            task: Some(task),
            leftovers: false,
        }
    }

    /// Waits until no due delivery is pending or leased, and new subscriptions have their retained
    /// events.
    ///
    /// # Panics
    /// When that takes longer than a test should.
    pub async fn settle(&self) {
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            // First: copying the past makes deliveries.
            let past = ledger::backfill::next(self.broker.db()).await;
            let status = self.status().await;
            let waits = |s: &SubscriptionStatus| s.due > 0 || s.leased > 0;
            if must(past, "the retained events").is_none()
                && !status.subscriptions.iter().any(waits)
            {
                return;
            }
            assert!(
                tokio::time::Instant::now() <= patience,
                "nothing settled within {PATIENCE:?}: {:#?}",
                status.subscriptions
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Moves the manual clock, publishes the ticks that came due, settles.
    pub async fn advance(&self, by: Duration) {
        self.settle().await;
        let db = self.broker.db();
        db.clock().advance(by);
        must(ticker::fire_due(db, &self.schedules).await, "ticks");
        self.settle().await;
    }

    /// Allows unfinished, dead and parked deliveries at the end of this test.
    pub fn allow_leftovers(&mut self) {
        self.leftovers = true;
    }

    /// Stops the worker as SIGTERM would, and waits for it.
    pub async fn stop(&mut self) {
        self.signal();
        if let Some(task) = self.task.take() {
            must(task.await, "a worker that ends");
        }
    }

    /// The system's counts.
    pub async fn status(&self) -> Status {
        must(self.broker.inspect().status().await, "a status")
    }

    fn signal(&self) {
        if let Some(stop) = self.stop.lock().ok().and_then(|mut stop| stop.take()) {
            let _ = stop.send(());
        }
    }

    /// Reads the counts from a drop, where nothing can be awaited: on a thread
    /// and connections of its own, since this test's runtime stands still.
    fn leftover(&self) -> Result<Option<String>, String> {
        let db = self.broker.db();
        let url = match db.path() {
            Some(path) if !path.exists() => return Err(format!("{} is gone", path.display())),
            Some(path) => format!("sqlite://{}", path.display()),
            None => db.url(),
        };
        let options = Options::default().clock(db.clock().clone());
        #[cfg(feature = "postgres")]
        let options = match db.engine() {
            Engine::Postgres(engine) => options.schema(engine.schema()),
            Engine::Sqlite(_) => options,
        };
        let read = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            let left = runtime.block_on(left(&url, options));
            left.map_err(|error| format!("{error:?}"))
        };
        let read = std::thread::spawn(read).join();
        read.unwrap_or_else(|_| Err("the thread that looks panicked".to_owned()))
    }
}

/// The unfinished deliveries, in words.
async fn left(url: &str, options: Options) -> Result<Option<String>, Error> {
    let db = Db::open_with(url, options).await?;
    let left: Vec<_> = ledger::tally(&db)
        .await?
        .into_iter()
        .filter(|s| s.due + s.leased + s.dead + s.parked > 0)
        .map(|s| {
            format!(
                "{}: {} due, {} leased, {} dead, {} parked",
                s.name.0, s.due, s.leased, s.dead, s.parked
            )
        })
        .collect();
    Ok((!left.is_empty()).then(|| left.join("; ")))
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        let left = if self.leftovers || std::thread::panicking() {
            Ok(None)
        } else {
            self.leftover()
        };
        self.signal();
        match left {
            Ok(None) => {}
            Ok(Some(left)) => panic!(
                "the test leaves deliveries behind ({left}): settle them, or say allow_leftovers()"
            ),
            Err(error) => panic!(
                "cannot look for deliveries that the test leaves behind ({error}): keep the database until the worker is dropped, or say allow_leftovers()"
            ),
        }
    }
}

fn must<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("cannot have {what}: {error:?}"))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::prelude::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Ping {}

    impl Event for Ping {
        const NAME: &'static str = "ping";
    }

    async fn fail(_: Ping) -> HandlerResult {
        Err(HandlerError::permanent("never"))
    }

    /// A worker that leaves a dead letter behind.
    async fn untidy() -> (TestDb, TestWorker) {
        let db = TestDb::open().await;
        let broker = Broker::sql(db.db().clone());
        let registry = Registry::new().on(subscribe("a", fail));
        let worker = TestWorker::start(broker.clone(), registry, ()).await;
        let published = broker.bus().publish(Ping {}).await;
        must(published, "an event");
        worker.settle().await;
        (db, worker)
    }

    fn said(dropped: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(dropped)).err();
        let text = panic.and_then(|panic| panic.downcast::<String>().ok());
        text.map(|text| *text).unwrap_or_default()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_test_leaves_behind_is_found_also_once_its_database_was_dropped() {
        // As a tuple does: in the order of its fields.
        let all = untidy().await;
        let text = said(move || drop(all));
        assert!(
            text.contains("leaves deliveries behind (a: 0 due"),
            "{text}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_cannot_look_for_what_the_test_leaves_behind_fails_the_test() {
        let (db, worker) = untidy().await;
        must(std::fs::remove_file(db.db().place()), "a file to remove");
        let text = said(move || drop(worker));
        assert!(text.contains("cannot look for deliveries"), "{text}");
    }
}
