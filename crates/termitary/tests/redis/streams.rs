//! Retention on Redis.

use serde::{Deserialize, Serialize};
use termitary::prelude::*;

use crate::world::{Made, World, eventually, pause};

const MAIN: &str = "termitary:{things.made}:events";
const UNREAD: &str = "termitary:{things.unread}:events";

/// Nobody subscribes to it.
#[derive(Serialize, Deserialize)]
struct Unread {}

impl Event for Unread {
    const NAME: &'static str = "things.unread";
}

/// Old entries that were published and never trimmed.
async fn leave_old_entries(world: &World, stream: &str) {
    for n in 1..=50 {
        let id = format!("1000-{n}");
        world.redis(&["XADD", stream, &id, "d", "{\"n\":1}"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_subscribes_to_does_not_grow_without_end() {
    let world = World::new(&["first"]).await;
    leave_old_entries(&world, UNREAD).await;
    world.broker.bus().publish(Unread {}).await.unwrap();
    assert_eq!(
        world.number(&["XLEN", UNREAD]).await,
        1,
        "what is new stays a while"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_service_subscribes_to_is_not_trimmed() {
    let world = World::new(&["first"]).await;
    leave_old_entries(&world, UNREAD).await;
    world
        .redis(&["XGROUP", "CREATE", UNREAD, "another.service", "0"])
        .await;
    world.broker.bus().publish(Unread {}).await.unwrap();
    assert_eq!(world.number(&["XLEN", UNREAD]).await, 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_subscriptions_wait_for_is_not_trimmed_when_redis_lost_their_groups() {
    let world = World::new(&["first"]).await;
    world.redis(&["FLUSHALL"]).await;
    leave_old_entries(&world, MAIN).await;
    world.broker.bus().publish(Made { n: 2 }).await.unwrap();
    assert_eq!(world.number(&["XLEN", MAIN]).await, 51);
    let _worker = world.worker().await;
    eventually("all is done", async || world.seen.total("first") == (2, 51)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_subscription_leaves_nothing_on_redis() {
    let world = World::new(&["first", "flaky"]).await;
    let mut worker = world.worker().await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("both are done", async || {
        world.of("first").await.done == 1 && world.of("flaky").await.done == 1
    })
    .await;
    worker.stop().await;
    let inspect = world.broker.inspect();
    inspect.drop_subscription("flaky", "test").await.unwrap();
    let left = world.redis(&["KEYS", "*flaky*"]).await;
    assert_eq!(left, redis::Value::Array(Vec::new()));
    let groups = format!("{:?}", world.redis(&["XINFO", "GROUPS", MAIN]).await);
    assert!(
        groups.contains("first") && !groups.contains("flaky"),
        "{groups}"
    );
    // The name is free again: it starts from now, at nought.
    world
        .broker
        .register(&crate::world::registry(&["flaky"]))
        .await
        .unwrap();
    assert_eq!(world.of("flaky").await.done, 0);
}

/// Number of trims.
async fn trims(world: &World) -> i64 {
    let info = world.redis(&["INFO", "commandstats"]).await;
    let info: String = redis::from_redis_value(info).unwrap();
    let line = info.lines().find(|line| line.contains("xtrim"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_has_not_read_that_this_worker_does_not_know_yet_is_not_trimmed() {
    let world = World::new(&["first"]).await;
    // Another process has just made it, for a subscription new to the ledger.
    world
        .redis(&["XGROUP", "CREATE", MAIN, "second", "$"])
        .await;
    let _worker = world.worker().await;
    let events = (0..20).map(|n| Made { n });
    world.broker.bus().publish_all(events).await.unwrap();
    eventually("the known one is done", async || {
        world.of("first").await.done == 20
    })
    .await;
    pause(2500).await; // longer than the grace of trimming
    let before = trims(&world).await;
    eventually("it is trimmed", async || trims(&world).await > before + 1).await;
    assert_eq!(world.number(&["XLEN", MAIN]).await, 20);
    world.redis(&["XGROUP", "DESTROY", MAIN, "second"]).await;
    eventually("the rest goes", async || {
        world.number(&["XLEN", MAIN]).await == 0
    })
    .await;
}

/// Lua counts in floating point: the largest id does not fit.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_the_far_future_does_not_break_the_trimming_script() {
    let world = World::new(&["first"]).await;
    world.commit(0..3).await;
    let _worker = world.worker().await;
    eventually("they are done", async || world.seen.total("first").0 == 3).await;
    let id = "9223372036854775807-1";
    world.redis(&["XADD", MAIN, id, "d", "{\"n\":9}"]).await;
    eventually("it is done too", async || world.seen.total("first").0 == 4).await;
    pause(2500).await; // longer than the grace of trimming
    eventually("the entries before it are trimmed", async || {
        world.number(&["XLEN", MAIN]).await == 1
    })
    .await;
}
