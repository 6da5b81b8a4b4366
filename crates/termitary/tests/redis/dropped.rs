//! A subscription that was dropped stays dropped.

use crate::world::{Made, World, eventually, pause, registry};

const MAIN: &str = "termitary:{things.made}:events";
const AGAIN: &str = "termitary:{things.made}:again:flaky";

async fn groups(world: &World) -> String {
    format!("{:?}", world.redis(&["XINFO", "GROUPS", MAIN]).await)
}

/// A worker of this world's ledger that runs these.
async fn worker(world: &World, names: &[&str]) -> termitary::testing::TestWorker {
    let broker = world.broker_with(world.config());
    let mut worker =
        termitary::testing::TestWorker::start(broker, registry(names), world.seen.clone()).await;
    worker.allow_leftovers();
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_not_dropped_while_a_live_worker_runs_it() {
    let world = World::new(&["first", "flaky"]).await;
    let mut running = worker(&world, &["first", "flaky"]).await;
    eventually("the worker is there", async || {
        world.of("flaky").await.workers == 1
    })
    .await;
    let inspect = world.broker.inspect();
    let id = world.status().await.workers[0].id.clone();
    let refused = inspect
        .drop_subscription("flaky", "test")
        .await
        .unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    assert!(refused.to_string().contains(&id), "{refused}");
    assert!(groups(&world).await.contains("flaky"));
    running.stop().await;
    inspect.drop_subscription("flaky", "test").await.unwrap();
    assert!(!groups(&world).await.contains("flaky"));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_dropped_subscription_do_not_come_back_beside_live_workers() {
    let world = World::new(&["first", "flaky"]).await;
    // One still reads it, and all look after every subscription on record.
    let _workers = [
        worker(&world, &["first", "flaky"]).await,
        worker(&world, &["first"]).await,
        worker(&world, &["first"]).await,
    ];
    let inspect = world.broker.inspect();
    for _ in 0..4 {
        world.broker.register(&registry(&["flaky"])).await.unwrap();
        pause(300).await;
        inspect
            .force_drop_subscription("flaky", "test")
            .await
            .unwrap();
        // Several looks of each, and all that they had in mind is old.
        pause(2_600).await;
        let groups = groups(&world).await;
        assert!(!groups.contains("flaky"), "{groups}");
        assert_eq!(world.number(&["EXISTS", AGAIN]).await, 0);
    }
    world
        .broker
        .bus()
        .publish_all((0..20).map(|n| Made { n }))
        .await
        .unwrap();
    eventually("the stream is trimmed", async || {
        world.seen.total("first").0 == 20 && world.number(&["XLEN", MAIN]).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_worker_made_again_of_a_dropped_subscription_is_removed() {
    let world = World::new(&["first", "flaky"]).await;
    let inspect = world.broker.inspect();
    inspect.drop_subscription("flaky", "test").await.unwrap();
    for stream in [MAIN, AGAIN] {
        for group in ["flaky", "another.service"] {
            world
                .redis(&["XGROUP", "CREATE", stream, group, "0", "MKSTREAM"])
                .await;
        }
    }
    let _worker = worker(&world, &["first"]).await;
    eventually("it is removed", async || {
        !groups(&world).await.contains("flaky") && world.number(&["EXISTS", AGAIN]).await == 0
    })
    .await;
    assert!(groups(&world).await.contains("another.service"));
    // Registered again it is a new one, which nobody removes.
    world.broker.register(&registry(&["flaky"])).await.unwrap();
    pause(6_000).await; // it is swept every five seconds
    assert!(groups(&world).await.contains("flaky"));
}
