use std::sync::Arc;

use termitary::Clock;
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

pub(crate) async fn what_comes_late_or_out_of_its_order_is_found_all_the_same(stand: Stand) {
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("a", note));
    let worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    // The first row of all is the last to come due, ...
    let mut tx = stand.db().begin().await.unwrap();
    tx.publish(Ping { n: 1 }.after(hours(1))).await.unwrap();
    tx.commit().await.unwrap();
    // ... the next number is nobody's, ...
    let mut tx = stand.db().begin().await.unwrap();
    tx.publish(Ping { n: 0 }).await.unwrap();
    tx.rollback().await.unwrap();
    stand.commit(Ping { n: 2 }).await;
    worker.settle().await;
    assert_eq!(seen.all(), ["2"]);
    // ... and one comes with a time before everything that was handed out.
    let behind = Clock::manual(stand.clock().now() - hours(1), 8);
    let other = stand.address().whose_clock_is(behind).open().await;
    let mut tx = other.db().begin().await.unwrap();
    tx.publish(Ping { n: 3 }).await.unwrap();
    tx.commit().await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), ["2", "3"]);
    worker.advance(hours(1)).await;
    assert_eq!(seen.all(), ["2", "3", "1"]);
}

/// Gives the second up on its first run.
async fn judge(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    let seen_before = seen.all().contains(&event.n.to_string());
    seen.add(event.n);
    if event.n == 2 && !seen_before {
        return Err(HandlerError::permanent("never"));
    }
    Ok(())
}

pub(crate) async fn finished_events_are_forgotten_after_a_week_and_unfinished_ones_never(
    stand: Stand,
) {
    let seen = Seen::default();
    let registry = || Registry::new().on(subscribe("a", judge));
    let mut worker = TestWorker::start(stand.broker(), registry(), seen.clone()).await;
    worker.allow_leftovers();
    let mut tx = stand.db().begin().await.unwrap();
    tx.publish(Ping { n: 1 }).await.unwrap();
    tx.publish(Ping { n: 2 }).await.unwrap();
    tx.publish(Ping { n: 3 }.after(days(30))).await.unwrap();
    tx.commit().await.unwrap();
    worker.settle().await;
    worker.stop().await;
    stand.clock().advance(days(8));
    // A worker starts by deleting old rows.
    let worker = TestWorker::start(stand.broker(), registry(), seen.clone()).await;
    eventually("the finished one is gone", async || {
        worker.status().await.events < 3
    })
    .await;
    assert_eq!(worker.status().await.events, 2);
    let broker = stand.broker();
    let all = LetterFilter::default();
    let replayed = broker.inspect().replay(&all, "test").await;
    assert_eq!(replayed.unwrap(), 1);
    worker.advance(days(22)).await;
    let mut runs = seen.all();
    runs.sort(); // their order is not promised
    assert_eq!(runs, ["1", "2", "2", "3"]);
}

/// Fails, gives up, and succeeds when it is replayed.
async fn note_key(_: Ping, State(seen): State<Seen>, meta: Meta) -> HandlerResult {
    seen.add(format!("{} {}", meta.idempotency_key(), meta.fence));
    match seen.len() {
        1 => Err("not yet".into()),
        2 => Err(HandlerError::permanent("never")),
        _ => Ok(()),
    }
}

pub(crate) async fn the_idempotency_key_is_the_same_in_every_run_and_the_fence_rises(stand: Stand) {
    for committed in [true, false] {
        let seen = Seen::default();
        let broker = stand.broker();
        let registry = Registry::new().on(subscribe("a", note_key));
        let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
        let event = if committed {
            stand.commit(Ping { n: 1 }).await
        } else {
            broker.bus().publish(Ping { n: 1 }).await.unwrap()
        };
        worker.advance(secs(3)).await;
        let all = LetterFilter::default();
        let replayed = broker.inspect().replay(&all, "test").await;
        assert_eq!(replayed.unwrap(), 1);
        worker.settle().await;
        let runs = seen.all();
        let fences: Vec<i64> = runs
            .iter()
            .map(|run| {
                let (key, fence) = run.split_once(' ').unwrap();
                assert_eq!(key, format!("{}:a", event.id));
                fence.parse().unwrap()
            })
            .collect();
        assert_eq!(fences.len(), 3);
        assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    }
}

pub(crate) async fn the_retained_past_reaches_a_new_subscription_once_whoever_dies_meanwhile(
    stand: Stand,
) {
    const PAST: u32 = 3_500;
    const ALL: u32 = PAST + 100;
    let publish = async |numbers: std::ops::Range<u32>| {
        let mut tx = stand.db().begin().await.unwrap();
        for n in numbers {
            tx.publish(Ping { n }).await.unwrap();
        }
        tx.commit().await.unwrap();
    };
    publish(0..PAST).await;
    let registry = || Registry::new().on(subscribe("late", note).from_retained());
    let seen = Seen::default();
    let process = Process::start(&stand, registry(), seen.clone(), secs(0));
    let deliveries = async || -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM termitary_deliveries")
            .fetch_one(&mut *stand.db().read().await.unwrap())
            .await
            .unwrap()
    };
    eventually("the first page is copied", async || deliveries().await > 0).await;
    process.kill();
    publish(PAST..ALL).await;
    stand.lapse().await;
    stand.outwait();
    let worker = TestWorker::start(stand.broker(), registry(), seen.clone()).await;
    eventually("all is there", async || {
        deliveries().await == i64::from(ALL)
    })
    .await;
    worker.settle().await;
    assert_eq!(worker.status().await.subscriptions[0].done, u64::from(ALL));
    let runs: std::collections::BTreeSet<u32> =
        seen.all().iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(runs.len(), ALL as usize);
}

async fn never(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Err(HandlerError::permanent("never"))
}

pub(crate) async fn a_replay_takes_each_letter_once_however_fast_it_dies_again(stand: Stand) {
    const LETTERS: u32 = 3_000;
    let seen = Seen::default();
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", never).concurrency(64));
    let mut worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    worker.allow_leftovers();
    let events = (0..LETTERS).map(|n| Ping { n });
    broker.bus().publish_all(events).await.unwrap();
    worker.settle().await;
    assert_eq!(seen.len(), LETTERS as usize);
    let all = LetterFilter::default();
    let replayed = broker.inspect().replay(&all, "test").await.unwrap();
    assert_eq!(replayed, u64::from(LETTERS));
    worker.settle().await;
    let mut runs = vec![0; LETTERS as usize];
    for n in seen.all() {
        runs[n.parse::<usize>().unwrap()] += 1;
    }
    assert!(runs.iter().all(|runs| *runs == 2), "{runs:?}");
    // Letters that die meanwhile are not dropped, either.
    let dropped = broker.inspect().drop_letters(&all, "test").await.unwrap();
    assert_eq!(dropped, u64::from(LETTERS));
}

async fn hang(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    std::future::pending().await
}

/// Publishes events with these numbers.
async fn publish(broker: &termitary::Broker, numbers: std::ops::Range<u32>) {
    let events = numbers.map(|n| Ping { n });
    broker.bus().publish_all(events).await.unwrap();
}

/// Waits until so many are pending and so many leased.
async fn until_held(broker: &termitary::Broker, pending: u64, leased: u64) {
    let what = format!("{pending} pending and {leased} leased");
    eventually(&what, async || {
        let status = broker.inspect().status().await.unwrap();
        let of = &status.subscriptions[0];
        (of.pending, of.leased) == (pending, leased)
    })
    .await;
}

pub(crate) async fn a_worker_of_unknown_handlers_holds_what_it_can_begin(stand: Stand) {
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", hang).concurrency(2));
    broker.register(&registry).await.unwrap();
    publish(&broker, 0..20).await;
    let begun = Seen::default();
    let process = Process::start(&stand, registry, begun.clone(), secs(0));
    until_held(&broker, 18, 2).await;
    publish(&broker, 20..40).await;
    until_held(&broker, 38, 2).await;
    eventually("both have begun", async || begun.len() == 2).await;
    process.kill();
}

/// Is short for the first twenty, and hangs then.
async fn slow_down(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    if event.n >= 20 {
        std::future::pending::<()>().await;
    }
    Ok(())
}

pub(crate) async fn a_worker_whose_handlers_turn_slow_gives_back_what_it_cannot_begin(
    stand: Stand,
) {
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("a", slow_down).concurrency(2));
    broker.register(&registry).await.unwrap();
    let begun = Seen::default();
    let process = Process::start(&stand, registry, begun.clone(), secs(0));
    publish(&broker, 0..20).await;
    until_held(&broker, 0, 0).await;
    // Short until now: as much is leased ahead as runs.
    publish(&broker, 20..40).await;
    until_held(&broker, 16, 4).await;
    until_held(&broker, 18, 2).await;
    eventually("all that was short, and two", async || begun.len() == 22).await;
    process.kill();
}

/// Waits for another run of itself.
async fn meet(_: Ping, State(both): State<Arc<tokio::sync::Barrier>>) -> HandlerResult {
    both.wait().await;
    Ok(())
}

pub(crate) async fn two_workers_of_one_place_each_share_two_events_of_one_commit(stand: Stand) {
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let registry = Registry::new().on(subscribe("a", meet).concurrency(1));
    let one = TestWorker::start(stand.broker(), registry.clone(), Arc::clone(&both)).await;
    let _other = TestWorker::start(stand.broker(), registry, both).await;
    for _ in 0..4 {
        let mut tx = stand.db().begin().await.unwrap();
        tx.publish(Ping { n: 1 }).await.unwrap();
        tx.publish(Ping { n: 2 }).await.unwrap();
        tx.commit().await.unwrap();
        // Neither ends before the other has begun: one worker cannot do it alone.
        one.settle().await;
    }
}

pub(crate) async fn a_worker_stops_what_was_dropped_under_it_and_runs_the_rest(stand: Stand) {
    let seen = Seen::default();
    let registry = Registry::new()
        .on(subscribe("goes", note))
        .on(subscribe("stays", note));
    let mut worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    worker.allow_leftovers();
    stand.commit(Ping { n: 1 }).await;
    worker.settle().await;
    for table in [
        "DELETE FROM termitary_deliveries WHERE subscription = (SELECT id FROM termitary_subscriptions WHERE name = 'goes')",
        "DELETE FROM termitary_subscriptions WHERE name = 'goes'",
    ] {
        stand.write(table).await;
    }
    eventually("it says that it runs the other only", async || {
        let running: String = sqlx::query_scalar("SELECT subscriptions FROM termitary_workers")
            .fetch_one(&mut *stand.db().read().await.unwrap())
            .await
            .unwrap();
        running == r#"["stays"]"#
    })
    .await;
    stand.commit(Ping { n: 2 }).await;
    worker.settle().await;
    assert_eq!(seen.all(), ["1", "1", "2"]);
}
