use std::time::{Duration, Instant};

use termitary::prelude::*;
use termitary::testing::TestDb;
use tokio::sync::oneshot;

use crate::{Ping, Seen};

async fn slow(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(format!("start {}", event.n));
    tokio::time::sleep(Duration::from_millis(300)).await;
    seen.add(format!("end {}", event.n));
    Ok(())
}

async fn hang(_: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add("start");
    std::future::pending().await
}

async fn counts(db: &TestDb) -> Vec<(i64, i64, i64)> {
    sqlx::query_as("SELECT state, attempts, crashes FROM termitary_deliveries ORDER BY event")
        .fetch_all(db.db().reader())
        .await
        .unwrap()
}

#[tokio::test]
async fn shutdown_lets_running_handlers_finish_and_releases_the_rest() {
    let (db, seen) = (TestDb::open().await, Seen::default());
    let broker = Broker::sql(db.db().clone());
    let registry = Registry::new().on(subscribe("slow", slow).concurrency(1));
    broker.register(&registry).await.unwrap();
    broker
        .bus()
        .publish_all((0..4).map(|n| Ping { n }))
        .await
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(broker, registry).state(seen.clone());
    let task = tokio::spawn(worker.run(async { drop(stopped.await) }));
    while seen.len() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert_eq!(seen.all(), ["start 0", "end 0"]);
    assert_eq!(
        counts(&db).await,
        [(2, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    );
}

#[tokio::test]
async fn a_handler_that_outlives_the_grace_is_released_without_an_attempt() {
    let (db, seen) = (TestDb::open().await, Seen::default());
    let broker = Broker::sql(db.db().clone());
    let registry = Registry::new().on(subscribe("hang", hang));
    broker.register(&registry).await.unwrap();
    broker.bus().publish(Ping { n: 0 }).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(broker, registry)
        .state(seen.clone())
        .grace(Duration::from_millis(200));
    let task = tokio::spawn(worker.run(async { drop(stopped.await) }));
    while seen.len() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert_eq!(counts(&db).await, [(0, 0, 0)]);
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let (db, seen) = (TestDb::open().await, Seen::default());
    let registry = Registry::new().on(subscribe("slow", slow));
    let worker = Worker::new(Broker::sql(db.db().clone()), registry).state(seen);
    let started = Instant::now();
    worker
        .run(tokio::time::sleep(Duration::from_millis(100)))
        .await
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}
