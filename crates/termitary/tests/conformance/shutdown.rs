use std::time::Duration;

use termitary::prelude::*;
use tokio::sync::oneshot;

use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

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

/// Number of pending, leased and done deliveries, and the sum of their attempts and crashes.
async fn counts(broker: &Broker) -> ((u64, u64, u64), i64) {
    let status = broker.inspect().status().await.unwrap();
    let of = &status.subscriptions[0];
    let blamed: i64 = sqlx::query_scalar(
        "SELECT CAST(COALESCE(SUM(attempts + crashes), 0) AS BIGINT) FROM termitary_deliveries",
    )
    .fetch_one(&mut *broker.db().read().await.unwrap())
    .await
    .unwrap();
    ((of.pending, of.leased, of.done), blamed)
}

pub(crate) async fn shutdown_lets_running_handlers_finish_and_releases_the_rest(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("slow", slow).concurrency(1));
    broker.register(&registry).await.unwrap();
    broker
        .bus()
        .publish_all((0..4).map(|n| Ping { n }))
        .await
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(broker.clone(), registry).state(seen.clone());
    let task = tokio::spawn(worker.run(async { drop(stopped.await) }));
    eventually("the first begins", async || seen.len() > 0).await;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    // Which of them it was is not promised.
    let saw = seen.all();
    assert_eq!(saw.len(), 2, "{saw:?}");
    assert_eq!(saw[0].replace("start", "end"), saw[1]);
    assert_eq!(counts(&broker).await, ((3, 0, 1), 0));
}

pub(crate) async fn a_handler_that_outlives_the_grace_is_released_without_an_attempt(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("hang", hang));
    broker.register(&registry).await.unwrap();
    broker.bus().publish(Ping { n: 0 }).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(broker.clone(), registry)
        .state(seen.clone())
        .grace(Duration::from_millis(200));
    let task = tokio::spawn(worker.run(async { drop(stopped.await) }));
    eventually("it begins", async || seen.len() > 0).await;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert_eq!(counts(&broker).await, ((1, 0, 0), 0));
}

pub(crate) async fn an_idle_worker_stops_at_once(stand: Stand) {
    let registry = Registry::new().on(subscribe("slow", slow));
    let worker = Worker::new(stand.broker(), registry).state(Seen::default());
    // Long before its grace of 25 seconds is over.
    let run = worker.run(tokio::time::sleep(Duration::from_millis(100)));
    tokio::time::timeout(secs(15), run).await.unwrap().unwrap();
}
