//! Systems with different key prefixes on one server.

use std::time::Duration;

use termitary::broker::Bridge;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis};

use crate::world::{Made, World, eventually, registry};

/// Both ways in, and a second run of each on the stream for redeliveries.
async fn work(world: &World) {
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    world.commit(2..3).await;
    eventually("both are done", async || world.of("flaky").await.done == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_a_system_begins_with_its_prefix() {
    let world = World::on(TestRedis::start(), &["flaky"], |config| {
        config.prefix("shop").bridge(Bridge::Both)
    })
    .await;
    let config = world.config().prefix("shop").bridge(Bridge::Both);
    let _worker = world.worker_with(config).await;
    work(&world).await;
    let keys: Vec<String> = redis::from_redis_value(world.redis(&["KEYS", "*"]).await).unwrap();
    // The two streams; the bridge's own keys live only for seconds.
    assert!(keys.len() >= 2, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("shop:")), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systems_with_different_prefixes_never_meet() {
    let ours = World::on(TestRedis::start(), &["flaky"], |config| {
        config.prefix("ours")
    })
    .await;
    let db = TestDb::open().await;
    let theirs = Broker::redis(db.db().clone(), ours.config().prefix("theirs")).unwrap();
    theirs.register(&registry(&["flaky"])).await.unwrap();
    let mut heard = theirs.broadcasts().subscribe();
    let _worker = ours.worker_with(ours.config().prefix("ours")).await;
    work(&ours).await;
    theirs.bus().publish(Made { n: 4 }).await.unwrap();
    eventually("theirs is heard", async || {
        theirs.bus().broadcast(Made { n: 5 }).await.unwrap();
        ours.broker.bus().broadcast(Made { n: 6 }).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), heard.recv());
        next.await.is_ok_and(|message| {
            assert_eq!(message.unwrap().data, r#"{"n":5}"#);
            true
        })
    })
    .await;
    let status = theirs.inspect().status().await.unwrap();
    let flaky = &status.subscriptions[0];
    assert_eq!((flaky.pending, flaky.done), (1, 0));
    assert_eq!(ours.seen.runs("flaky", 4), 0);
}

#[tokio::test]
async fn a_prefix_that_could_hide_a_hash_tag_is_refused() {
    let (db, server) = (TestDb::open().await, TestRedis::start());
    let broker = Broker::redis(db.db().clone(), server.config().prefix("a{b}"));
    assert!(broker.is_err_and(|error| error.is_invalid()));
}
