//! A handler gets no event that its code does not name, whatever its subscription was registered
//! for before.

use serde::{Deserialize, Serialize};
use termitary::inspect::{LetterFilter, LetterState};
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

/// Another event with the same fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pong {
    n: u32,
}

impl Event for Pong {
    const NAME: &'static str = "pong.sent";
}

/// [`Ping`], renamed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Called {
    n: u32,
}

impl Event for Called {
    const NAME: &'static str = "called.out";
    const ALIASES: &'static [&'static str] = &["ping.sent"];
}

async fn ping(event: Ping, State(seen): State<Seen>, meta: Meta) -> HandlerResult {
    seen.add(format!("ping {} {}", meta.event_name, event.n));
    Ok(())
}

async fn pong(event: Pong, State(seen): State<Seen>, meta: Meta) -> HandlerResult {
    seen.add(format!("pong {} {}", meta.event_name, event.n));
    Ok(())
}

async fn called(event: Called, State(seen): State<Seen>, meta: Meta) -> HandlerResult {
    seen.add(format!("called {} {}", meta.event_name, event.n));
    Ok(())
}

fn pings() -> Registry<Seen> {
    Registry::new().on(subscribe("mail.send", ping))
}

fn pongs() -> Registry<Seen> {
    Registry::new().on(subscribe("mail.send", pong))
}

fn sorted(seen: &Seen) -> Vec<String> {
    let mut all = seen.all();
    all.sort();
    all
}

pub(crate) async fn a_subscription_that_moved_parks_what_is_left_of_the_other_event(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    broker.register(&pings()).await.unwrap();
    stand.commit(Ping { n: 1 }).await;
    stand.commit(Ping { n: 2 }.after(secs(10))).await;
    broker.bus().publish(Ping { n: 3 }).await.unwrap();
    let mut worker = TestWorker::start(broker.clone(), pongs(), seen.clone()).await;
    worker.allow_leftovers();
    // Events published from now on no longer reach it.
    stand.commit(Ping { n: 4 }).await;
    stand.commit(Pong { n: 5 }).await;
    broker.bus().publish(Pong { n: 6 }).await.unwrap();
    worker.advance(secs(10)).await;
    let parked = async || worker.status().await.subscriptions[0].parked;
    eventually("all that was left is parked", async || parked().await == 3).await;
    worker.settle().await;
    assert_eq!(sorted(&seen), ["pong pong.sent 5", "pong pong.sent 6"]);
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 9)
        .await
        .unwrap();
    assert_eq!(letters.len(), 3);
    for letter in letters {
        assert_eq!(
            (letter.state, &*letter.reason),
            (LetterState::Parked, "unknown-name")
        );
        assert_eq!(letter.event.name, "ping.sent");
        assert!(letter.error.contains("`pong.sent`") && letter.error.contains("`ping.sent`"));
    }
    worker.stop().await;

    // It moves back: the parked events run by themselves.
    let seen = Seen::default();
    let worker = TestWorker::start(broker.clone(), pings(), seen.clone()).await;
    stand.commit(Ping { n: 7 }).await;
    worker.settle().await;
    let all = [1, 2, 3, 7].map(|n| format!("ping ping.sent {n}"));
    assert_eq!(sorted(&seen), all);
}

pub(crate) async fn a_renamed_event_is_handled_by_old_and_new_code_side_by_side(stand: Stand) {
    let seen = Seen::default();
    let mut old = TestWorker::start(stand.broker(), pings(), seen.clone()).await;
    old.allow_leftovers();
    let registry = Registry::new().on(subscribe("mail.send", called));
    let mut new = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    new.allow_leftovers();
    // The old code starts again during the deploy.
    stand.broker().register(&pings()).await.unwrap();
    let event = new.status().await.subscriptions[0].event.clone();
    assert_eq!(event, "called.out", "of the code that knows both names");
    for n in 0..20 {
        stand.commit(Ping { n }).await;
        stand.commit(Called { n: 100 + n }).await;
        stand
            .broker()
            .bus()
            .publish(Called { n: 200 + n })
            .await
            .unwrap();
    }
    eventually("all are handled", async || seen.len() == 60).await;
    old.settle().await;
    let all = seen.all();
    let by_old = all.iter().filter(|run| run.starts_with("ping called.out"));
    assert_eq!(by_old.count(), 0, "{all:?}");
    let renamed = all
        .iter()
        .filter(|run| run.starts_with("called called.out"));
    assert_eq!(renamed.count(), 40, "{all:?}");
    let status = new.status().await;
    assert_eq!(status.subscriptions[0].parked, 0);
}

async fn called_at_last(
    event: Called,
    State(seen): State<Seen>,
    meta: Meta,
    Attempt(attempt): Attempt,
) -> HandlerResult {
    seen.add(format!("{} {} {attempt}", meta.event_name, event.n));
    if attempt == 1 {
        return Err("not yet".into());
    }
    Ok(())
}

pub(crate) async fn a_retry_keeps_the_name_that_its_event_was_published_under(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    let registry = Registry::new().on(subscribe("mail.send", called_at_last));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    stand.commit(Ping { n: 1 }).await;
    broker.bus().publish(Ping { n: 2 }).await.unwrap();
    stand.commit(Called { n: 3 }).await;
    worker.advance(secs(2)).await;
    let all = [
        "called.out 3 1",
        "called.out 3 2",
        "ping.sent 1 1",
        "ping.sent 1 2",
        "ping.sent 2 1",
        "ping.sent 2 2",
    ];
    assert_eq!(sorted(&seen), all);
}

pub(crate) async fn two_running_workers_cannot_handle_two_events_under_one_name(stand: Stand) {
    let seen = Seen::default();
    let mut first = TestWorker::start(stand.broker(), pings(), seen.clone()).await;
    eventually("it runs", async || !first.status().await.workers.is_empty()).await;
    let refused = stand.broker().register(&pongs()).await.unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    let said = refused.to_string();
    for part in [
        "`mail.send`",
        "`ping.sent`",
        "`pong.sent`",
        "/termitary/",
        "ALIASES",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Nothing was changed for the one that runs.
    stand.commit(Ping { n: 1 }).await;
    first.settle().await;
    assert_eq!(seen.all(), ["ping ping.sent 1"]);
    first.stop().await;
    let second = TestWorker::start(stand.broker(), pongs(), seen.clone()).await;
    stand.commit(Pong { n: 2 }).await;
    second.settle().await;
    assert_eq!(seen.all(), ["ping ping.sent 1", "pong pong.sent 2"]);
}
