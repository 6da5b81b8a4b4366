use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::stand::Stand;
use crate::{Ping, Seen};

async fn note(tick: Tick, State(seen): State<Seen>) -> HandlerResult {
    seen.add(tick.at);
    Ok(())
}

async fn note_ping(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Ok(())
}

pub(crate) async fn two_workers_publish_one_event_per_tick(stand: Stand) {
    let seen = Seen::default();
    let registry = || Registry::new().on(cron("every.hour", "0 * * * *", note));
    let first = TestWorker::start(stand.broker(), registry(), seen.clone()).await;
    let second = TestWorker::start(stand.broker(), registry(), seen.clone()).await;
    for _ in 0..3 {
        first.advance(hours(1)).await;
        second.settle().await;
    }
    assert_eq!(
        seen.all(),
        [
            "2026-01-15T13:00:00Z",
            "2026-01-15T14:00:00Z",
            "2026-01-15T15:00:00Z"
        ]
    );
}

pub(crate) async fn a_schedule_publishes_the_event_that_it_makes(stand: Stand) {
    let seen = Seen::default();
    let registry = Registry::new()
        .on(schedule("pings", "30 * * * *", |_| Ping { n: 9 }))
        .on(subscribe("note", note_ping));
    let worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    worker.advance(hours(1)).await;
    assert_eq!(seen.all(), ["9"]);
    let status = worker.status().await;
    assert_eq!(
        status.schedules[0].last.unwrap().to_string(),
        "2026-01-15T12:30:00Z"
    );
    assert_eq!(
        status.schedules[0].next.unwrap().to_string(),
        "2026-01-15T13:30:00Z"
    );
}

pub(crate) async fn missed_ticks_are_caught_up_with_the_latest_only(stand: Stand) {
    let seen = Seen::default();
    let registry = || Registry::new().on(cron("every.hour", "0 * * * *", note));
    let broker = stand.broker();
    let mut first = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    first.stop().await;
    stand.clock().advance(hours(5));
    let second = TestWorker::start(broker, registry(), seen.clone()).await;
    second.advance(secs(1)).await;
    assert_eq!(seen.all(), ["2026-01-15T17:00:00Z"]);
}

pub(crate) async fn an_edited_rule_neither_repeats_nor_catches_up(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let hourly = Registry::new().on(cron("job", "0 * * * *", note));
    let mut worker = TestWorker::start(broker.clone(), hourly, seen.clone()).await;
    worker.advance(hours(1)).await;
    worker.stop().await;
    drop(worker);
    stand.clock().advance(minutes(50));
    let other = Registry::new().on(cron("job", "*/5 * * * *", note));
    let worker = TestWorker::start(broker, other, seen.clone()).await;
    worker.advance(secs(1)).await;
    assert_eq!(seen.all(), ["2026-01-15T13:00:00Z"]);
    worker.advance(minutes(5)).await;
    assert_eq!(seen.len(), 2);
}

pub(crate) async fn a_paused_schedule_skips_and_resumes_without_catching_up(stand: Stand) {
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(cron("job", "0 * * * *", note));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    broker
        .inspect()
        .pause_schedule("job", "test")
        .await
        .unwrap();
    worker.advance(hours(3)).await;
    assert!(seen.all().is_empty());
    broker
        .inspect()
        .resume_schedule("job", "test")
        .await
        .unwrap();
    worker.advance(minutes(30)).await;
    assert!(seen.all().is_empty());
    worker.advance(minutes(30)).await;
    assert_eq!(seen.all(), ["2026-01-15T16:00:00Z"]);
    let error = broker
        .inspect()
        .pause_schedule("nope", "test")
        .await
        .unwrap_err();
    assert!(error.is_not_found());
}
