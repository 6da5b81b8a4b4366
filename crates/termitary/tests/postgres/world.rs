//! The service under test: a server of its own, workers, and a table of effects that counts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use termitary::prelude::*;
use termitary::testing::{TestPostgres, TestWorker};

const PATIENCE: Duration = secs(60);
pub(crate) const LEASE: Duration = Duration::from_millis(1500);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) n: i64,
}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

/// Writes its effect in the transaction that finishes it.
async fn effect(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    note(&mut tx, event.n).await?;
    tx.commit().await
}

pub(crate) async fn note(tx: &mut Tx, n: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(n)
        .execute(tx)
        .await?;
    Ok(())
}

pub(crate) fn soon() -> Retry {
    Retry::exponential(Duration::from_millis(20), Duration::from_millis(100)).attempts(1000)
}

pub(crate) fn registry() -> Registry<()> {
    Registry::new().on(subscribe("effect", effect).retry(soon()))
}

pub(crate) struct World {
    pub(crate) server: TestPostgres,
    pub(crate) url: String,
    pub(crate) broker: Broker,
    workers: Vec<TestWorker>,
}

impl World {
    /// With as many workers, each with connections of its own.
    pub(crate) async fn new(workers: usize) -> Self {
        let server = TestPostgres::start();
        let url = server.url("postgres");
        let broker = broker(&url).await;
        broker.register(&registry()).await.unwrap();
        let mut world = Self {
            server,
            url,
            broker,
            workers: Vec::new(),
        };
        world
            .write("CREATE TABLE made (n BIGINT); CREATE TABLE effects (n BIGINT)")
            .await;
        for _ in 0..workers {
            let broker = self::broker(&world.url).await;
            world.add(broker, registry()).await;
        }
        world
    }

    pub(crate) async fn add(&mut self, broker: Broker, registry: Registry<()>) {
        let mut worker = TestWorker::start(broker, registry, ()).await;
        worker.allow_leftovers();
        self.workers.push(worker);
    }

    pub(crate) fn db(&self) -> &Db {
        self.broker.db()
    }

    /// A connection of an operator.
    pub(crate) async fn operator(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Statements of an operator.
    pub(crate) async fn write(&self, sql: &str) {
        let mut conn = self.operator().await;
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    pub(crate) async fn numbers(&self, sql: &'static str) -> Vec<i64> {
        let mut conn = self.operator().await;
        let numbers = sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        numbers
    }

    pub(crate) async fn effects(&self) -> Vec<i64> {
        self.numbers("SELECT n FROM effects ORDER BY n").await
    }

    /// Everything that is owed had its effect, and nothing had it twice or without a commit.
    pub(crate) async fn finishes(&mut self, owed: &BTreeSet<i64>) {
        let committed = self.numbers("SELECT n FROM made").await;
        let owed: BTreeSet<i64> = owed.iter().copied().chain(committed).collect();
        eventually("all had their effect", async || {
            let done: BTreeSet<i64> = self.effects().await.into_iter().collect();
            owed.is_subset(&done)
        })
        .await;
        eventually("nothing is left", async || {
            let status = self.broker.inspect().status().await.unwrap();
            let left = |s: &termitary::inspect::SubscriptionStatus| s.pending + s.leased;
            status.subscriptions.iter().map(left).sum::<u64>() == 0
        })
        .await;
        let twice = "SELECT n FROM effects GROUP BY n HAVING COUNT(*) > 1";
        assert_eq!(self.numbers(twice).await, [0; 0], "happened more than once");
        let status = self.broker.inspect().status().await.unwrap();
        let letters = status.subscriptions.iter().map(|s| s.dead + s.parked);
        assert_eq!(letters.sum::<u64>(), 0, "dead or parked");
        self.stop().await;
    }

    pub(crate) async fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.stop().await;
        }
    }
}

pub(crate) async fn broker(url: &str) -> Broker {
    let db = Db::open(url).await.unwrap();
    Broker::builder(db).lease(LEASE).sql()
}

/// The business row and its event, together or not at all.
pub(crate) async fn make(db: &Db, n: i64) -> Result<(), termitary::Error> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO made (n) VALUES ($1)")
        .bind(n)
        .execute(&mut *tx)
        .await?;
    tx.publish(Made { n }).await?;
    tx.commit().await
}

/// The error with its sources.
pub(crate) fn told(error: &termitary::Error) -> String {
    format!("{error:?}")
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
