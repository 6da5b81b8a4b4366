//! The ordinary life of events.

use std::time::Duration;

use termitary::broker::Bridge;
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::TestRedis;

use crate::world::{Made, World, eventually, pause, registry};

const MAIN: &str = "termitary:{things.made}:events";

#[tokio::test(flavor = "multi_thread")]
async fn committed_events_run_once_per_subscription_whoever_works() {
    let world = World::new(&["first", "second"]).await;
    let mut workers = [
        world.worker().await,
        world.worker().await,
        world.worker().await,
    ];
    world.commit(0..300).await;
    eventually("all are done", async || {
        world.of("first").await.done + world.of("second").await.done == 600
    })
    .await;
    assert_eq!(world.seen.total("first"), (300, 300));
    // It records its deliveries after its commit.
    eventually("all ran", async || world.seen.total("second").0 == 300).await;
    assert_eq!(world.seen.total("second"), (300, 300));
    for worker in &mut workers {
        worker.stop().await;
    }
    let status = world.of("first").await;
    assert_eq!(
        (status.pending, status.leased, status.dead, status.parked),
        (0, 0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bus_events_never_touch_the_database_when_all_goes_well() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world
        .broker
        .bus()
        .publish_all((0..1000).map(|n| Made { n }))
        .await
        .unwrap();
    eventually("all are done", async || {
        world.of("first").await.done == 1000
    })
    .await;
    assert_eq!(world.seen.total("first"), (1000, 1000));
    let status = world.status().await;
    assert_eq!(status.events, 0);
    assert_eq!(
        (
            status.subscriptions[0].pending,
            status.subscriptions[0].leased
        ),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_with_a_ledger_finishes_a_bus_event_in_its_own_transaction() {
    let world = World::new(&["second"]).await;
    let _worker = world.worker().await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("it is done", async || world.of("second").await.done == 1).await;
    eventually("it is settled", async || {
        world.of("second").await.leased == 0
    })
    .await;
    let status = world.status().await;
    assert_eq!((status.events, world.seen.runs("second", 1)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_comes_again_for_its_subscription_only() {
    let world = World::new(&["first", "flaky"]).await;
    let _worker = world.worker().await;
    world.commit(0..1).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("both are done", async || world.of("flaky").await.done == 2).await;
    assert_eq!(
        (world.seen.runs("flaky", 0), world.seen.runs("flaky", 1)),
        (2, 2)
    );
    assert_eq!(world.seen.total("first"), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_event_waits_in_the_ledger() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    let soon = Made { n: 1 }.after(Duration::from_millis(700));
    world.broker.bus().publish(soon).await.unwrap();
    pause(300).await;
    assert_eq!(world.seen.runs("first", 1), 0);
    assert_eq!(world.number(&["XLEN", MAIN]).await, 0);
    eventually("it runs", async || world.seen.runs("first", 1) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_an_id_of_its_own_is_published_once() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    let bus = world.broker.bus();
    let one = bus.publish(Made { n: 1 }.id("order-17")).await.unwrap();
    let two = bus.publish(Made { n: 2 }.id("order-17")).await.unwrap();
    assert_eq!(
        (one.id, one.duplicate, two.duplicate),
        (two.id, false, true)
    );
    eventually("it is done", async || world.of("first").await.done == 1).await;
    assert_eq!(world.seen.runs("first", 2), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_through_redis() {
    let world = World::new(&["hopeless"]).await;
    let _worker = world.worker().await;
    world.commit(0..1).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("both are dead", async || {
        world.of("hopeless").await.dead == 2
    })
    .await;
    let replayed = world
        .broker
        .inspect()
        .replay(&LetterFilter::default(), "test")
        .await
        .unwrap();
    assert_eq!(replayed, 2);
    eventually("both are done", async || {
        world.of("hopeless").await.done == 2
    })
    .await;
    assert_eq!(world.of("hopeless").await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_keeps_what_a_slow_subscription_has_not_finished() {
    let world = World::new(&["first", "slow"]).await;
    let _worker = world.worker().await;
    world.commit(0..20).await;
    world
        .broker
        .bus()
        .publish_all((20..40).map(|n| Made { n }))
        .await
        .unwrap();
    eventually("the fast one is done", async || {
        world.seen.total("first").0 == 40
    })
    .await;
    pause(3500).await; // longer than the grace and the interval of trimming
    assert!(
        world.number(&["XLEN", MAIN]).await >= 32,
        "unfinished entries were trimmed"
    );
    eventually("the slow one is done", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 40
    })
    .await;
    eventually("the stream is empty", async || {
        world.number(&["XLEN", MAIN]).await == 0
    })
    .await;
    assert_eq!(world.seen.total("slow"), (40, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_gives_back_what_it_holds_without_counting_an_attempt() {
    let world = World::new(&["slow"]).await;
    let mut worker = world.worker().await;
    world
        .broker
        .bus()
        .publish_all((0..8).map(|n| Made { n }))
        .await
        .unwrap();
    eventually("four run", async || world.seen.total("slow.started").0 == 4).await;
    let stop = worker.stop();
    let ((), ()) = tokio::join!(stop, async {
        pause(200).await;
        world.seen.open_gate();
    });
    let status = world.of("slow").await;
    assert_eq!((status.done, status.pending, status.leased), (4, 4, 0));
    let _next = world.worker().await;
    eventually("the rest runs", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 8
    })
    .await;
    assert_eq!(world.seen.total("slow"), (8, 8));
    let consumers = world.redis(&["XINFO", "CONSUMERS", MAIN, "slow"]).await;
    let consumers: Vec<redis::Value> = redis::from_redis_value(consumers).unwrap();
    assert_eq!(consumers.len(), 1, "only the live worker is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_is_forgotten_by_all_its_subscriptions() {
    let world = World::new(&["first", "second"]).await;
    let mut worker = world.worker().await;
    world.commit(0..4).await;
    eventually("all run", async || {
        let done = async |name| world.of(name).await.done;
        done("first").await + done("second").await == 8
    })
    .await;
    worker.stop().await;
    for group in ["first", "second"] {
        let consumers = world.redis(&["XINFO", "CONSUMERS", MAIN, group]).await;
        let consumers: Vec<redis::Value> = redis::from_redis_value(consumers).unwrap();
        assert_eq!(consumers, [], "of {group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_sees_both_kinds_of_events_once() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    let mut tail = world.broker.inspect().tail().await.unwrap();
    let bus = world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    world.commit(2..3).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(tail.next().await.unwrap().id);
    }
    assert!(ids.contains(&bus.id));
    let more = tokio::time::timeout(Duration::from_millis(500), tail.next()).await;
    assert!(more.is_err(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_every_process() {
    let world = World::new(&["first"]).await;
    let other = world.broker_with(world.config());
    let (mut one, mut two) = (
        world.broker.broadcasts().subscribe(),
        other.broadcasts().subscribe(),
    );
    eventually("both listen", async || {
        world
            .number(&["PUBLISH", "termitary:broadcast", "{}"])
            .await
            == 2
    })
    .await;
    world.broker.bus().broadcast(Made { n: 5 }).await.unwrap();
    for heard in [one.recv().await.unwrap(), two.recv().await.unwrap()] {
        assert_eq!((&*heard.name, &*heard.data), ("things.made", "{\"n\":5}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_that_the_deploy_files_make_is_never_refused() {
    let names = ["first", "second", "flaky"];
    let world = World::on(TestRedis::start(), &names, |config| {
        config.bridge(Bridge::Both)
    })
    .await;
    let mut worker = world.worker_with(world.config().bridge(Bridge::Both)).await;
    world.commit(0..10).await;
    world.broker.bus().publish(Made { n: 10 }).await.unwrap();
    for name in names {
        eventually("all are done", async || world.of(name).await.done == 11).await;
    }
    pause(1500).await; // trimming comes once a second
    worker.stop().await;
    let refused = world.redis(&["ACL", "LOG"]).await;
    let refused: Vec<redis::Value> = redis::from_redis_value(refused).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscription_starts_from_now() {
    let world = World::new(&["first"]).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    world.commit(2..3).await;
    world
        .broker
        .register(&registry(&["first", "second"]))
        .await
        .unwrap();
    world.broker.bus().publish(Made { n: 3 }).await.unwrap();
    let later = world.broker_with(world.config());
    let mut worker = termitary::testing::TestWorker::start(
        later,
        registry(&["first", "second"]),
        world.seen.clone(),
    )
    .await;
    worker.allow_leftovers();
    eventually("all is done", async || {
        world.of("first").await.done == 3 && world.of("second").await.done == 1
    })
    .await;
    // It records its deliveries after its commit.
    eventually("it ran", async || world.seen.runs("second", 3) == 1).await;
    assert_eq!(world.seen.total("second"), (1, 1));
}
