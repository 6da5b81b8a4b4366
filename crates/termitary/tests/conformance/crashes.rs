use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::process::Process;
use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

async fn note(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Ok(())
}

async fn crashes(stand: &Stand) -> Vec<i64> {
    sqlx::query_scalar("SELECT crashes FROM termitary_deliveries")
        .fetch_all(stand.db().reader())
        .await
        .unwrap()
}

async fn hang(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(format!("hangs:{}", event.n));
    std::future::pending().await
}

/// A process begins what is due and dies of it; then its leases end.
async fn die(stand: &Stand) {
    let begun = Seen::default();
    let registry = Registry::new().on(subscribe("a", hang));
    let process = Process::start(stand, registry, begun.clone(), secs(0));
    eventually("it begins", async || begun.len() == 1).await;
    process.kill();
    stand.lapse().await;
}

pub(crate) async fn a_worker_that_vanished_is_taken_over_and_its_loss_counts_as_a_crash(
    stand: Stand,
) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", note));
    broker.register(&registry).await.unwrap();
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    die(&stand).await;
    let worker = TestWorker::start(broker, registry, seen.clone()).await;
    worker.settle().await;
    assert_eq!(seen.all(), ["1"]);
    assert_eq!(crashes(&stand).await, [1]);
    let attempts: Vec<i64> = sqlx::query_scalar("SELECT attempts FROM termitary_deliveries")
        .fetch_all(stand.db().reader())
        .await
        .unwrap();
    assert_eq!(attempts, [0], "a crash is no attempt");
}

pub(crate) async fn what_takes_three_workers_down_is_quarantined(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", note));
    broker.register(&registry).await.unwrap();
    stand.commit(Ping { n: 1 }).await;
    die(&stand).await;
    die(&stand).await;
    // After the second crash it waits, so as not to take all down in turn.
    let mut worker = TestWorker::start(broker.clone(), registry.clone(), seen.clone()).await;
    worker.allow_leftovers();
    worker.settle().await;
    assert!(seen.all().is_empty());
    worker.stop().await;
    stand.clock().advance(secs(10));
    die(&stand).await;
    let mut worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    worker.allow_leftovers();
    worker.settle().await;
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 9)
        .await
        .unwrap();
    assert_eq!(
        (
            letters[0].reason.as_str(),
            letters[0].crashes,
            letters[0].attempts
        ),
        ("crashed", 3, 0)
    );
    assert!(seen.all().is_empty());
}
