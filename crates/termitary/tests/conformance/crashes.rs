use std::sync::Arc;
use std::time::Duration;

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
        .fetch_all(&mut *stand.db().read().await.unwrap())
        .await
        .unwrap()
}

async fn hang(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(format!("hangs:{}", event.n));
    std::future::pending().await
}

/// A process starts the due deliveries and dies of them; then its leases end.
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
        .fetch_all(&mut *stand.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(attempts, [0], "a crash is no attempt");
}

/// A delivery whose process died twice, and ten seconds have passed.
async fn suspect(stand: &Stand) {
    let registry = Registry::new().on(subscribe("a", note));
    stand.broker().register(&registry).await.unwrap();
    stand.commit(Ping { n: 1 }).await;
    die(stand).await;
    die(stand).await;
    // It waits, so as not to take all workers down in turn.
    assert!(runs(stand).await.is_empty());
    stand.clock().advance(secs(10));
}

/// The deliveries that a new worker runs now.
async fn runs(stand: &Stand) -> Vec<String> {
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("a", note));
    let mut worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    worker.allow_leftovers();
    worker.settle().await;
    worker.stop().await;
    seen.all()
}

pub(crate) async fn what_takes_two_workers_down_while_alone_is_quarantined(stand: Stand) {
    suspect(&stand).await;
    die(&stand).await;
    assert!(runs(&stand).await.is_empty());
    stand.clock().advance(secs(10));
    die(&stand).await;
    assert!(runs(&stand).await.is_empty());
    let broker = stand.broker();
    let letters = broker.inspect().letters(&LetterFilter::default(), 9).await;
    let letter = &letters.unwrap()[0];
    let of = (letter.reason.as_str(), letter.crashes, letter.attempts);
    assert_eq!(of, ("crashed", 4, 0));
    assert!(letter.error.contains("4 times"), "{}", letter.error);
}

pub(crate) async fn one_death_while_alone_is_thin_evidence(stand: Stand) {
    suspect(&stand).await;
    die(&stand).await;
    assert!(runs(&stand).await.is_empty());
    stand.clock().advance(secs(10));
    assert_eq!(runs(&stand).await, ["1"]);
    assert_eq!(crashes(&stand).await, [3]);
}

/// Waits, as the first, until it may end.
async fn wait(
    event: Ping,
    State((seen, end)): State<(Seen, Arc<tokio::sync::Semaphore>)>,
) -> HandlerResult {
    seen.add(event.n);
    if event.n == 1 {
        end.acquire().await?.forget();
    }
    Ok(())
}

pub(crate) async fn other_workers_go_on_while_a_suspect_runs_alone(stand: Stand) {
    suspect(&stand).await;
    let state = (Seen::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let seen = &state.0;
    let registry = Registry::new().on(subscribe("a", wait));
    let one = TestWorker::start(stand.broker(), registry.clone(), state.clone()).await;
    let _other = TestWorker::start(stand.broker(), registry, state.clone()).await;
    eventually("the suspect runs", async || seen.all() == ["1"]).await;
    for n in 2..40 {
        stand.commit(Ping { n }).await;
    }
    eventually("all others have run", async || seen.len() == 39).await;
    state.1.add_permits(1);
    one.settle().await;
}

async fn slowly(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    tokio::time::sleep(Duration::from_millis(25)).await;
    seen.add(event.n);
    Ok(())
}

pub(crate) async fn a_crowd_of_suspects_and_other_work_take_turns(stand: Stand) {
    const CROWD: u32 = 120;
    let registry = Registry::new().on(subscribe("a", slowly));
    stand.broker().register(&registry).await.unwrap();
    let mut tx = stand.db().begin().await.unwrap();
    for n in 0..CROWD {
        tx.publish(Ping { n }).await.unwrap();
    }
    tx.commit().await.unwrap();
    stand
        .write("UPDATE termitary_deliveries SET crashes = 2, state = -1")
        .await;
    let seen = Seen::default();
    let worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    eventually("the crowd runs", async || seen.len() > 5).await;
    for n in CROWD..CROWD + 20 {
        stand.commit(Ping { n }).await;
    }
    worker.settle().await;
    let all = seen.all();
    assert_eq!(all.len(), CROWD as usize + 20);
    let is_other = |n: &String| n.parse::<u32>().unwrap() >= CROWD;
    let first_other = all.iter().position(is_other).unwrap();
    let last_suspect = all.iter().rposition(|n| !is_other(n)).unwrap();
    assert!(
        first_other < last_suspect,
        "other work waited for the whole crowd"
    );
}
