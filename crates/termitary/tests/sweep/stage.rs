//! The ledger before a case begins: some work for every part of the engine.

use std::path::PathBuf;

use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use termitary::prelude::*;
use termitary::testing::{PostgresDatabase, TestPostgres, TestRedis};

use crate::script::{Ordered, Place, TABLES, registry, send};

/// Two processes died with it: it is to run alone.
pub(crate) const SUSPECT: u32 = 10;
/// A dead worker holds it, or Redis has lost it.
pub(crate) const ABANDONED: u32 = 11;
/// On Redis: a dead worker holds its entry.
pub(crate) const HAUNTED: u32 = 12;
const STREAM: &str = "termitary:{shop.ordered}:events";

pub(crate) struct Stage {
    folder: TempDir,
    /// Without it the database is a file in the folder.
    pub(crate) postgres: Option<PostgresDatabase>,
    redis: Option<TestRedis>,
    pub(crate) broker: Broker,
}

impl Stage {
    pub(crate) async fn set(mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = mode.contains("redis").then(TestRedis::start);
        let postgres = mode.starts_with("postgres");
        let postgres = postgres
            .then(|| tokio::task::block_in_place(|| TestPostgres::shared().create_database()));
        let place = place(&folder, postgres.as_ref(), redis.as_ref(), 0);
        let broker = place.broker().await;
        broker.register(&registry()).await.unwrap();
        let stage = Self {
            folder,
            postgres,
            redis,
            broker,
        };
        stage.write(TABLES).await;
        stage.remember().await;
        stage.suspect().await;
        stage.abandon().await;
        stage.haunt().await;
        // A tick was missed, a moment ago.
        stage
            .write("UPDATE termitary_schedules SET last_us = last_us - 90000000")
            .await;
        stage
    }

    pub(crate) fn place(&self, life: u32) -> Place {
        let postgres = self.postgres.as_ref();
        place(&self.folder, postgres, self.redis.as_ref(), life)
    }

    pub(crate) fn log(&self, life: u32) -> PathBuf {
        self.folder.path().join(format!("{life}.log"))
    }

    /// The end of a process's log.
    pub(crate) fn tail(&self, life: u32) -> String {
        let log = std::fs::read_to_string(self.log(life)).unwrap_or_default();
        let from = log.len().saturating_sub(4000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    /// A statement of the checker in the dialect of the database.
    pub(crate) fn dialect(&self, sql: &str) -> AssertSqlSafe<String> {
        let id = match self.postgres {
            Some(_) => "replace(CAST(t.event AS text), '-', '')",
            None => "lower(hex(t.event))",
        };
        AssertSqlSafe(sql.replace("{id of t.event}", id))
    }

    pub(crate) async fn write(&self, sql: &'static str) {
        let mut tx = self.broker.db().begin().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Returns whether a process holds the write lock of the database, which PostgreSQL
    /// does not have.
    #[cfg(feature = "planted-bugs")]
    pub(crate) async fn is_held(&self) -> bool {
        use std::str::FromStr;

        use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
        if self.postgres.is_some() {
            return false;
        }
        let file = SqliteConnectOptions::from_str(&self.place(0).database).unwrap();
        let impatient = file.busy_timeout(std::time::Duration::ZERO);
        let mut conn = impatient.connect().await.unwrap();
        let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await;
        conn.close().await.unwrap();
        begun.is_err()
    }

    /// Publishes an order, and applies `sql` to its deliveries.
    async fn order(&self, n: u32, sql: &'static str) {
        let mut tx = self.broker.db().begin().await.unwrap();
        sqlx::query("INSERT INTO orders (n) VALUES ($1)")
            .bind(n)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.publish(Ordered { n }).await.unwrap();
        tx.commit().await.unwrap();
        self.write(sql).await;
    }

    /// An event that was finished long ago.
    async fn remember(&self) {
        self.order(
            0,
            "UPDATE termitary_events SET time_us = time_us - 700000000000, source = 'old';
             UPDATE termitary_deliveries SET state = 2, fence = 1;
             DELETE FROM orders;",
        )
        .await;
    }

    async fn suspect(&self) {
        self.order(
            SUSPECT,
            "UPDATE termitary_deliveries SET state = -1, crashes = 2, fence = 2
             WHERE event = (SELECT MAX(seq) FROM termitary_events)
               AND subscription = (SELECT id FROM termitary_subscriptions WHERE name = 'pack')",
        )
        .await;
    }

    async fn abandon(&self) {
        let sql = if self.redis.is_some() {
            "UPDATE termitary_deliveries SET state = 1, worker = 'relay', fence = 1, lease_us = 1,
                entry = 'termitary:{shop.ordered}:events|1-1'
             WHERE event = (SELECT MAX(seq) FROM termitary_events);
             UPDATE termitary_events SET fanned = 1 WHERE seq = (SELECT MAX(seq) FROM termitary_events);"
        } else {
            "UPDATE termitary_deliveries SET state = 1, worker = 'gone', fence = 1, lease_us = 1
             WHERE event = (SELECT MAX(seq) FROM termitary_events)"
        };
        self.order(ABANDONED, sql).await;
    }

    /// A worker reads an entry and is never heard of again.
    async fn haunt(&self) {
        let Some(redis) = &self.redis else {
            return;
        };
        send(&self.broker, HAUNTED).await;
        let client = redis::Client::open(("127.0.0.1", redis.port())).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&[
            "GROUP", "pack", "ghost", "COUNT", "9", "STREAMS", STREAM, ">",
        ]);
        let got: redis::Value = read.query_async(&mut conn).await.unwrap();
        assert_ne!(got, redis::Value::Nil);
    }
}

fn place(
    folder: &TempDir,
    postgres: Option<&PostgresDatabase>,
    redis: Option<&TestRedis>,
    life: u32,
) -> Place {
    let file = || format!("sqlite://{}", folder.path().join("app.db").display());
    Place {
        database: postgres.map_or_else(file, |database| database.url().to_owned()),
        redis: redis.map(TestRedis::port),
        life,
    }
}
