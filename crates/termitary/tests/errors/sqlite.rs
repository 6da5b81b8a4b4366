//! The database is locked, full, read-only, or gone.

use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};

use crate::world::{Made, eventually};

async fn effect(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(event.n)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

fn registry() -> Registry<()> {
    Registry::new().on(subscribe("effect", effect))
}

/// One service on one file, over either broker.
struct Service {
    db: TestDb,
    worker: TestWorker,
    _redis: Option<TestRedis>,
}

impl Service {
    async fn start(over_redis: bool) -> Self {
        let db = TestDb::open_with(Clock::system()).await;
        let mut tx = db.db().begin().await.unwrap();
        sqlx::query("CREATE TABLE effects (n INTEGER NOT NULL)")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let redis = over_redis.then(TestRedis::start);
        let broker = match &redis {
            Some(redis) => Broker::redis(db.db().clone(), redis.config()).unwrap(),
            None => Broker::sql(db.db().clone()),
        };
        let mut worker = TestWorker::start(broker, registry(), ()).await;
        worker.allow_leftovers();
        Self {
            db,
            worker,
            _redis: redis,
        }
    }

    async fn publish(&self, n: i64) -> Result<(), termitary::Error> {
        let mut tx = self.db.db().begin().await?;
        tx.publish(Made { n }).await?;
        tx.commit().await
    }

    /// Exactly these had their effect, once each.
    async fn finishes(&mut self, numbers: &[i64]) {
        eventually("all is done", async || {
            self.effects().await.len() >= numbers.len()
        })
        .await;
        self.worker.settle().await;
        assert_eq!(self.effects().await, numbers);
        self.worker.stop().await;
    }

    async fn effects(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT n FROM effects ORDER BY n")
            .fetch_all(&mut *self.db.db().read().await.unwrap())
            .await
            .unwrap()
    }

    async fn stranger(&self) -> SqliteConnection {
        let url = format!("sqlite://{}", self.db.db().place());
        SqliteConnection::connect(&url).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_process_keeps_is_waited_for_and_then_said() {
    for over_redis in [false, true] {
        let mut service = Service::start(over_redis).await;
        service.publish(1).await.unwrap();
        let mut stranger = service.stranger().await;
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut stranger)
            .await
            .unwrap();
        // Kept until it was said: only a bounded wait ends.
        let refused = service.publish(2).await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(format!("{refused:?}").contains("locked"), "{refused:?}");
        sqlx::query("ROLLBACK")
            .execute(&mut stranger)
            .await
            .unwrap();
        service.publish(3).await.unwrap();
        service.finishes(&[1, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_nothing_half_and_everything_again_when_there_is_room() {
    for over_redis in [false, true] {
        let mut service = Service::start(over_redis).await;
        service.publish(1).await.unwrap();
        limit(&service, "(SELECT page_count + 2 FROM pragma_page_count)").await;
        let mut taken = vec![1];
        let mut n = 1;
        let refused = loop {
            n += 1;
            match service.publish(n).await {
                Ok(()) => taken.push(n),
                Err(refused) => break refused,
            }
        };
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(format!("{refused:?}").contains("full"), "{refused:?}");
        // Loops meet it, too.
        tokio::time::sleep(Duration::from_millis(500)).await;
        limit(&service, "1000000").await;
        service.publish(n + 1).await.unwrap();
        taken.push(n + 1);
        let half: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM termitary_events e WHERE NOT EXISTS
             (SELECT 1 FROM termitary_deliveries d WHERE d.event = e.seq)",
        )
        .fetch_one(&mut *service.db.db().read().await.unwrap())
        .await
        .unwrap();
        assert_eq!(half, 0, "events without deliveries");
        service.finishes(&taken).await;
    }
}

/// Limits the pages of the file: like a full disk, for the only writer.
async fn limit(service: &Service, pages: &str) {
    let mut tx = service.db.db().begin().await.unwrap();
    let pages: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {pages}")))
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "PRAGMA max_page_count = {pages}"
    )))
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_read_only_for_one_process_is_said_and_another_goes_on() {
    let mut service = Service::start(false).await;
    service.publish(1).await.unwrap();
    eventually("the first is done", async || service.effects().await == [1]).await;
    // The error of SQLite on a disk that became read-only, for the only writer.
    let mut tx = service.db.db().begin().await.unwrap();
    sqlx::query("PRAGMA query_only = 1")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    let refused = service.publish(2).await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    assert!(format!("{refused:?}").contains("readonly"), "{refused:?}");
    let url = format!("sqlite://{}", service.db.db().place());
    let other = Broker::sql(termitary::Db::open(&url).await.unwrap());
    let mut worker = TestWorker::start(other.clone(), registry(), ()).await;
    worker.allow_leftovers();
    other.bus().publish(Made { n: 3 }).await.unwrap();
    eventually("the other works", async || {
        service.effects().await == [1, 3]
    })
    .await;
    worker.stop().await;
    service.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_file_that_is_taken_away_takes_no_more_commits() {
    for over_redis in [false, true] {
        let mut service = Service::start(over_redis).await;
        service.publish(1).await.unwrap();
        eventually("the first is done", async || service.effects().await == [1]).await;
        let path = service.db.db().path().unwrap().to_owned();
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).unwrap();
        let refused = service.publish(2).await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(
            refused.to_string().contains("removed or replaced"),
            "{refused}"
        );
        // Another file in its place is not the one we write to.
        std::fs::write(&path, b"").unwrap();
        assert!(service.publish(3).await.is_err());
        std::fs::rename(&aside, &path).unwrap();
        service.publish(4).await.unwrap();
        service.finishes(&[1, 4]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_long_reader_kept_in_the_log_is_given_back_when_it_ends() {
    const LIMIT: u64 = 64 * 1024 * 1024;
    let mut service = Service::start(false).await;
    let mut stranger = service.stranger().await;
    let mut reading = stranger.begin().await.unwrap();
    let _: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects")
        .fetch_one(&mut *reading)
        .await
        .unwrap();
    let log = service.db.db().path().unwrap().with_extension("db-wal");
    let log = if log.exists() {
        log
    } else {
        std::path::PathBuf::from(format!("{}-wal", service.db.db().place()))
    };
    let length = || std::fs::metadata(&log).unwrap().len();
    while length() < LIMIT + LIMIT / 4 {
        let mut tx = service.db.db().begin().await.unwrap();
        sqlx::query("INSERT INTO effects (n) SELECT -1 FROM (WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 200000) SELECT i FROM r)")
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("DELETE FROM effects WHERE n = -1")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    service.publish(1).await.unwrap();
    eventually("work goes on", async || service.effects().await == [1]).await;
    reading.rollback().await.unwrap();
    let mut n = 1;
    eventually("the log is short again", async || {
        n += 1;
        service.publish(n).await.unwrap();
        length() <= LIMIT
    })
    .await;
    let all: Vec<_> = (1..=n).collect();
    service.finishes(&all).await;
}
