use std::time::Duration;

use termitary::inspect::{LetterFilter, LetterState};
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

async fn note(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Ok(())
}

pub(crate) async fn every_subscription_gets_each_event_once(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new()
        .on(subscribe("a", note))
        .on(subscribe("b", note));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    let all = broker
        .bus()
        .publish_all((0..100).map(|n| Ping { n }))
        .await
        .unwrap();
    assert_eq!(all.len(), 100);
    worker.settle().await;
    let mut numbers: Vec<u32> = seen.all().iter().map(|n| n.parse().unwrap()).collect();
    numbers.sort_unstable();
    let twice: Vec<u32> = (0..100).flat_map(|n| [n, n]).collect();
    assert_eq!(numbers, twice);
}

pub(crate) async fn a_transactional_event_is_real_when_its_transaction_commits_or_never(
    stand: Stand,
) {
    let seen = Seen::default();
    let broker = stand.broker();
    let worker = TestWorker::start(
        broker,
        Registry::new().on(subscribe("a", note)),
        seen.clone(),
    )
    .await;
    let mut undone = stand.db().begin().await.unwrap();
    undone.publish(Ping { n: 1 }).await.unwrap();
    undone.rollback().await.unwrap();
    let mut dropped = stand.db().begin().await.unwrap();
    dropped.publish(Ping { n: 2 }).await.unwrap();
    drop(dropped);
    let mut done = stand.db().begin().await.unwrap();
    done.publish(Ping { n: 3 }).await.unwrap();
    done.commit().await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), ["3"]);
}

pub(crate) async fn what_was_published_before_any_worker_started_waits_for_one(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", note));
    broker.register(&registry).await.unwrap();
    broker.bus().publish(Ping { n: 7 }).await.unwrap();
    let worker = TestWorker::start(broker, registry, seen.clone()).await;
    worker.settle().await;
    assert_eq!(seen.all(), ["7"]);
}

pub(crate) async fn a_delayed_event_waits_for_its_time(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let worker = TestWorker::start(
        broker.clone(),
        Registry::new().on(subscribe("a", note)),
        seen.clone(),
    )
    .await;
    broker
        .bus()
        .publish(Ping { n: 1 }.after(days(14)))
        .await
        .unwrap();
    worker.advance(days(13)).await;
    assert!(seen.all().is_empty());
    worker.advance(days(1)).await;
    assert_eq!(seen.all(), ["1"]);
}

pub(crate) async fn an_event_with_an_id_of_its_own_is_recorded_once(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let worker = TestWorker::start(
        broker.clone(),
        Registry::new().on(subscribe("a", note)),
        seen.clone(),
    )
    .await;
    let first = broker
        .bus()
        .publish(Ping { n: 1 }.id("order-17-paid"))
        .await
        .unwrap();
    let second = broker
        .bus()
        .publish(Ping { n: 1 }.id("order-17-paid"))
        .await
        .unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.id, second.id);
    worker.settle().await;
    assert_eq!(seen.len(), 1);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Pong {
    n: u32,
}

impl Event for Pong {
    const NAME: &'static str = "pong.sent";
}

async fn note_pong(event: Pong, State(seen): State<Seen>) -> HandlerResult {
    seen.add(format!("pong {}", event.n));
    Ok(())
}

pub(crate) async fn an_idempotency_id_belongs_to_one_event_name(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new()
        .on(subscribe("a", note))
        .on(subscribe("b", note_pong));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    let bus = broker.bus();
    let first = bus.publish(Ping { n: 1 }.id("order-1")).await.unwrap();
    let other = bus.publish(Pong { n: 1 }.id("order-1")).await.unwrap();
    assert!(!first.duplicate && !other.duplicate && first.id != other.id);
    for _ in 0..2 {
        assert_eq!(stand.commit(Ping { n: 2 }.id("order-1")).await.id, first.id);
        let again = bus.publish(Pong { n: 2 }.id("order-1")).await.unwrap();
        assert!(again.duplicate && again.id == other.id);
    }
    let new = stand.commit(Pong { n: 3 }.id("order-2")).await;
    let again = stand.commit(Pong { n: 3 }.id("order-2")).await;
    assert!(!new.duplicate && again.duplicate && again.id == new.id);
    worker.settle().await;
    let mut all = seen.all();
    all.sort();
    assert_eq!(all, ["1", "pong 1", "pong 3"]);
}

async fn fail_twice(_: Ping, State(seen): State<Seen>, Attempt(n): Attempt) -> HandlerResult {
    seen.add(n);
    if n < 3 { Err("not yet".into()) } else { Ok(()) }
}

pub(crate) async fn an_error_is_retried_after_its_wait_and_counted(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let worker = TestWorker::start(
        broker.clone(),
        Registry::new().on(subscribe("a", fail_twice)),
        seen.clone(),
    )
    .await;
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), ["1"], "not retried at once");
    worker.advance(secs(2)).await;
    worker.advance(secs(4)).await;
    assert_eq!(seen.all(), ["1", "2", "3"]);
}

async fn give_up(_: Ping) -> HandlerResult {
    "not a number".parse::<u32>().permanent()?;
    Ok(())
}

pub(crate) async fn a_permanent_error_is_a_dead_letter_at_once_and_runs_again_on_replay(
    stand: Stand,
) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", give_up));
    let mut worker = TestWorker::start(broker.clone(), registry, seen).await;
    worker.allow_leftovers();
    let published = broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.settle().await;
    let letters = broker.inspect().letters_of(published.id).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].reason.as_str(), letters[0].attempts),
        ("permanent", 1)
    );
    assert!(letters[0].error.contains("invalid digit"));
    let replayed = broker
        .inspect()
        .replay(&LetterFilter::default(), "test")
        .await
        .unwrap();
    assert_eq!(replayed, 1);
    worker.settle().await;
    assert_eq!(
        worker.status().await.subscriptions[0].dead,
        1,
        "it ran and died again"
    );
    assert_eq!(
        broker
            .inspect()
            .drop_letters(&LetterFilter::default(), "test")
            .await
            .unwrap(),
        1
    );
    assert_eq!(worker.status().await.subscriptions[0].dead, 0);
}

async fn panic_on_odd(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    assert!(event.n.is_multiple_of(2), "odd");
    seen.add(event.n);
    Ok(())
}

pub(crate) async fn a_panic_is_an_error_of_its_delivery_only(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", panic_on_odd).retry(Retry::never()));
    let mut worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    worker.allow_leftovers();
    broker
        .bus()
        .publish_all((0..20).map(|n| Ping { n }))
        .await
        .unwrap();
    worker.settle().await;
    assert_eq!(seen.len(), 10);
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 100)
        .await
        .unwrap();
    assert_eq!(letters.len(), 10);
    assert!(
        letters
            .iter()
            .all(|l| l.error.contains("panicked: odd") && l.crashes == 0)
    );
}

async fn never_ends(_: Ping) -> HandlerResult {
    std::future::pending().await
}

pub(crate) async fn a_handler_over_its_timeout_is_cancelled_and_counted(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", never_ends)
        .timeout(Duration::from_millis(50))
        .retry(Retry::never()));
    let mut worker = TestWorker::start(broker.clone(), registry, seen).await;
    worker.allow_leftovers();
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.settle().await;
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 9)
        .await
        .unwrap();
    assert!(
        letters[0].error.contains("timed out after 50ms"),
        "{}",
        letters[0].error
    );
}

async fn snooze_once(event: Ping, State(seen): State<Seen>, Attempt(n): Attempt) -> HandlerResult {
    seen.add(n);
    if seen.len() == 1 {
        return Err(HandlerError::snooze(hours(1)));
    }
    assert_eq!(event.n, 1);
    Ok(())
}

pub(crate) async fn a_snooze_uses_up_no_attempt(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", snooze_once).retry(Retry::never()));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.advance(hours(1)).await;
    assert_eq!(seen.all(), ["1", "1"]);
}

pub(crate) async fn an_undecodable_payload_is_parked_alone_and_never_quoted(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", note));
    let mut worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    worker.allow_leftovers();
    broker
        .bus()
        .publish_json("ping.sent", r#"{"n":"secret-text"}"#)
        .await
        .unwrap();
    broker.bus().publish(Ping { n: 2 }).await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), ["2"]);
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 9)
        .await
        .unwrap();
    assert_eq!(
        (letters[0].state, letters[0].reason.as_str()),
        (LetterState::Parked, "undecodable")
    );
    assert!(!letters[0].error.contains("secret"), "{}", letters[0].error);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct PingV2 {
    n: u32,
}

impl Event for PingV2 {
    const NAME: &'static str = "ping.sent";
    const VERSION: u32 = 2;
}

async fn note_v2(event: PingV2, State(seen): State<Seen>) -> HandlerResult {
    seen.add(format!("v2:{}", event.n));
    Ok(())
}

pub(crate) async fn a_newer_version_is_parked_by_an_old_worker_and_released_by_a_new_one(
    stand: Stand,
) {
    let seen = Seen::default();
    let broker = stand.broker();
    let old = Registry::new().on(subscribe("a", note));
    let mut worker = TestWorker::start(broker.clone(), old, seen.clone()).await;
    worker.allow_leftovers();
    broker.bus().publish(PingV2 { n: 5 }).await.unwrap();
    worker.settle().await;
    assert_eq!(worker.status().await.subscriptions[0].parked, 1);
    worker.stop().await;
    let new = Registry::new().on(subscribe("a", note_v2));
    let worker = TestWorker::start(broker.clone(), new, seen.clone()).await;
    worker.settle().await;
    assert_eq!(seen.all(), ["v2:5"]);
}

pub(crate) async fn a_broadcast_reaches_every_listener(stand: Stand) {
    let (here, there) = (stand.broker(), stand.broker());
    let mut listeners = [
        here.broadcasts().subscribe(),
        there.broadcasts().subscribe(),
    ];
    let mut heard = [false; 2];
    // Nothing is stored: it is said until both have begun to listen.
    eventually("both hear it", async || {
        here.bus().broadcast(Ping { n: 1 }).await.unwrap();
        for (listener, heard) in listeners.iter_mut().zip(&mut heard) {
            let next = tokio::time::timeout(Duration::from_millis(50), listener.recv());
            let Ok(message) = next.await else { continue };
            let message = message.unwrap();
            assert_eq!(
                (message.name.as_str(), message.data.as_str()),
                ("ping.sent", r#"{"n":1}"#)
            );
            *heard = true;
        }
        heard == [true; 2]
    })
    .await;
}
