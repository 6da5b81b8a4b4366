//! A machine sleeps with everything that works on it, and wakes: nobody died.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use termitary::broker::RedisConfig;
use termitary::prelude::*;
use termitary::testing::TestRedis;

use crate::processes::{PATIENCE, end_with_parent, role};
use crate::suspects::Fed;

const EVENTS: u32 = 6;
const LEASE: Duration = Duration::from_millis(1500);
const FOLDER: &str = "TERMITARY_TEST_FOLDER";
const REDIS: &str = "TERMITARY_TEST_SLEEP_REDIS";

#[derive(Clone)]
struct Inn {
    db: Db,
    morning: PathBuf,
}

/// Writes down that it ran, then waits for the morning.
async fn rest(event: Fed, State(inn): State<Inn>) -> HandlerResult {
    let mut tx = inn.db.begin().await?;
    sqlx::query("INSERT INTO rests (n) VALUES ($1)")
        .bind(event.n)
        .execute(&mut *tx)
        .await
        .map_err(termitary::Error::from)?;
    tx.commit().await?;
    while !inn.morning.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn registry() -> Registry<Inn> {
    Registry::new().on(subscribe("guests.rest", rest).concurrency(8))
}

async fn broker(folder: &Path, redis: Option<u16>) -> Broker {
    let url = format!("sqlite://{}", folder.join("app.db").display());
    let db = Db::open(&url).await.unwrap();
    let broker = Broker::builder(db).lease(LEASE);
    match redis {
        Some(port) => broker.redis(RedisConfig::host("127.0.0.1", port)).unwrap(),
        None => broker.sql(),
    }
}

/// Not a test by itself: a worker process of the tests below.
#[test]
fn a_worker_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    end_with_parent();
    let folder = PathBuf::from(folder);
    let redis = std::env::var(REDIS).ok().map(|port| port.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let broker = broker(&folder, redis).await;
        let inn = Inn {
            db: broker.db().clone(),
            morning: folder.join("morning"),
        };
        Worker::new(broker, registry())
            .state(inn)
            .run(std::future::pending())
            .await
            .unwrap();
    });
}

/// Worker processes, which end with the test.
struct Guests(Vec<Child>);

impl Guests {
    fn signal(&self, signal: &str) {
        for guest in &self.0 {
            let mut kill = Command::new("kill");
            kill.arg(format!("-{signal}")).arg(guest.id().to_string());
            assert!(kill.status().unwrap().success());
        }
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        for guest in &mut self.0 {
            let _ = guest.kill();
            let _ = guest.wait();
        }
    }
}

async fn count(broker: &Broker, query: &'static str) -> i64 {
    let mut reader = broker.db().read().await.unwrap();
    let count = sqlx::query_scalar(query).fetch_one(&mut *reader);
    count.await.unwrap()
}

async fn until(broker: &Broker, what: &str, query: &'static str, number: u32) {
    let patience = Instant::now() + PATIENCE;
    while count(broker, query).await != i64::from(number) {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const RUNS: &str = "SELECT COUNT(*) FROM rests";
const CRASHES: &str = "SELECT CAST(COALESCE(SUM(crashes), 0) AS BIGINT) FROM termitary_deliveries";

async fn a_night(redis: Option<TestRedis>) {
    let folder = tempfile::tempdir().unwrap();
    let port = redis.as_ref().map(TestRedis::port);
    let broker = broker(folder.path(), port).await;
    broker.register(&registry()).await.unwrap();
    let mut tx = broker.db().begin().await.unwrap();
    sqlx::query("CREATE TABLE rests (n INTEGER NOT NULL)")
        .execute(&mut *tx)
        .await
        .unwrap();
    for n in 1..EVENTS {
        tx.publish(Fed { n }).await.unwrap();
    }
    tx.commit().await.unwrap();
    broker.bus().publish(Fed { n: EVENTS }).await.unwrap();
    let guests = (0..2).map(|_| {
        let mut guest = role("suspended::a_worker_process");
        guest.env(FOLDER, folder.path());
        if let Some(port) = port {
            guest.env(REDIS, port.to_string());
        }
        guest.spawn().unwrap()
    });
    let guests = Guests(guests.collect());
    until(&broker, "all rest", RUNS, EVENTS).await;
    for _ in 0..2 {
        guests.signal("STOP");
        tokio::time::sleep(LEASE * 4).await;
        guests.signal("CONT");
        tokio::time::sleep(LEASE * 2).await;
    }
    assert_eq!(count(&broker, CRASHES).await, 0, "nobody died");
    std::fs::write(folder.path().join("morning"), "").unwrap();
    let patience = Instant::now() + PATIENCE;
    loop {
        let status = broker.inspect().status().await.unwrap();
        if status.subscriptions[0].done == u64::from(EVENTS) {
            break;
        }
        assert!(Instant::now() < patience, "never all done: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(&broker, CRASHES).await, 0);
    assert_eq!(
        count(&broker, RUNS).await,
        i64::from(EVENTS),
        "each ran once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_slept_with_each_other_lose_no_lease_on_sqlite() {
    a_night(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_slept_with_each_other_lose_no_lease_on_redis() {
    a_night(Some(TestRedis::start())).await;
}
