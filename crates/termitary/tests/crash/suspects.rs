//! One delivery kills every process that runs it; all others are bystanders.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use termitary::broker::RedisConfig;
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::TestRedis;

use crate::processes::{PATIENCE, end_with_parent, role};
use crate::supervised::Supervised;

const EVENTS: u32 = 200;
const POISON: u32 = 20;
const LEASE: Duration = Duration::from_millis(900);
const DATABASE: &str = "TERMITARY_TEST_DATABASE";
const REDIS: &str = "TERMITARY_TEST_REDIS";

#[derive(Serialize, Deserialize)]
pub(crate) struct Fed {
    pub(crate) n: u32,
}

impl Event for Fed {
    const NAME: &'static str = "guests.fed";
}

/// Writes down that it ran, then works a little, or dies.
async fn taste(event: Fed, State(db): State<Db>, Attempt(attempt): Attempt) -> HandlerResult {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO tastes (n, attempt) VALUES ($1, $2)")
        .bind(event.n)
        .bind(attempt)
        .execute(&mut *tx)
        .await
        .map_err(termitary::Error::from)?;
    tx.commit().await?;
    if event.n == POISON {
        std::process::abort();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

fn registry() -> Registry<Db> {
    Registry::new().on(subscribe("guests.taste", taste))
}

async fn broker(path: &str, redis: Option<u16>) -> Broker {
    let db = Db::open(&format!("sqlite://{path}")).await.unwrap();
    let broker = Broker::builder(db).lease(LEASE);
    match redis {
        Some(port) => broker.redis(RedisConfig::host("127.0.0.1", port)).unwrap(),
        None => broker.sql(),
    }
}

/// Not a test by itself: a worker process of the tests below.
#[test]
fn a_worker_process() {
    let Ok(path) = std::env::var(DATABASE) else {
        return;
    };
    end_with_parent();
    let redis = std::env::var(REDIS).ok().map(|port| port.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let broker = broker(&path, redis).await;
        let db = broker.db().clone();
        Worker::new(broker, registry())
            .state(db)
            .run(std::future::pending())
            .await
            .unwrap();
    });
}

async fn one_poisonous_delivery(redis: Option<TestRedis>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db").display().to_string();
    let port = redis.as_ref().map(TestRedis::port);
    let broker = broker(&path, port).await;
    broker.register(&registry()).await.unwrap();
    let mut tx = broker.db().begin().await.unwrap();
    sqlx::query("CREATE TABLE tastes (n INTEGER NOT NULL, attempt INTEGER NOT NULL)")
        .execute(&mut *tx)
        .await
        .unwrap();
    for n in 0..EVENTS {
        tx.publish(Fed { n }).await.unwrap();
    }
    tx.commit().await.unwrap();

    let workers: Vec<_> = (0..3)
        .map(|_| {
            let mut worker = role("suspects::a_worker_process");
            worker.env(DATABASE, &path);
            if let Some(port) = port {
                worker.env(REDIS, port.to_string());
            }
            Supervised::start(worker)
        })
        .collect();
    let patience = Instant::now() + PATIENCE;
    loop {
        let status = broker.inspect().status().await.unwrap();
        let s = &status.subscriptions[0];
        if s.done + s.dead == u64::from(EVENTS) {
            break;
        }
        assert!(Instant::now() < patience, "never all finished: {s:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let deaths: u32 = workers.iter().map(Supervised::deaths).sum();
    drop(workers);

    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 1000)
        .await
        .unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.event.data.get(), letter.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [(&*format!(r#"{{"n":{POISON}}}"#), "crashed")],
        "the poison alone is quarantined"
    );
    let highest: i64 = sqlx::query_scalar("SELECT MAX(attempt) FROM tastes")
        .fetch_one(&mut *broker.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(highest, 1, "a crash is no attempt");
    let killed: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tastes WHERE n = $1")
        .bind(POISON)
        .fetch_one(&mut *broker.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        (killed, deaths),
        (4, 4),
        "four processes died of it, and no more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_delivery_that_kills_its_process_is_quarantined_on_sqlite() {
    one_poisonous_delivery(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_delivery_that_kills_its_process_is_quarantined_on_redis() {
    one_poisonous_delivery(Some(TestRedis::start())).await;
}
