//! Workers that die, and leases that are lost.

use std::time::Duration;

use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};

use crate::world::{Made, World, eventually, pause};

const MAIN: &str = "termitary:{things.made}:events";

/// A worker that reads everything of a group and is never heard of again.
async fn ghost(world: &World, group: &str) {
    eventually("there is something to read", async || {
        let read = [
            "XREADGROUP",
            "GROUP",
            group,
            "ghost",
            "COUNT",
            "100",
            "STREAMS",
            MAIN,
            ">",
        ];
        world.redis(&read).await;
        let pending: (i64, redis::Value, redis::Value, redis::Value) =
            redis::from_redis_value(world.redis(&["XPENDING", MAIN, group]).await).unwrap();
        pending.0 > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_held_runs_elsewhere() {
    let world = World::new(&["first"]).await;
    world
        .broker
        .bus()
        .publish_all((0..5).map(|n| Made { n }))
        .await
        .unwrap();
    ghost(&world, "first").await;
    let _worker = world.worker().await;
    eventually("all are done", async || world.of("first").await.done == 5).await;
    assert_eq!(world.seen.total("first"), (5, 5));
    let crashes: Vec<i64> = sqlx::query_scalar("SELECT crashes FROM termitary_deliveries")
        .fetch_all(&mut *world.db.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(crashes, [1; 5], "a crash is counted, not an attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_delivery_keeps_its_lease() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    let _other = world.worker().await;
    world.commit(0..1).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("both run", async || world.seen.total("slow.started").0 == 2).await;
    pause(3000).await; // five leases, and longer than the ledger's trust
    assert_eq!(
        world.seen.total("slow.started"),
        (2, 2),
        "nobody took it over"
    );
    world.seen.open_gate();
    eventually("both are done", async || world.of("slow").await.done == 2).await;
}

/// The machine of Redis and of its workers slept for an hour: its clock goes on.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_have_grown_old_while_everybody_slept_are_left_to_their_workers() {
    let world = World::leasing(Duration::from_secs(3), &["slow"]).await;
    let _workers = [world.worker().await, world.worker().await];
    world.commit(0..2).await;
    world.broker.bus().publish(Made { n: 2 }).await.unwrap();
    eventually("all run", async || world.seen.total("slow.started").0 == 3).await;
    let age = "for _, p in ipairs(redis.call('XPENDING', KEYS[1], 'slow', '-', '+', 100)) do
        redis.call('XCLAIM', KEYS[1], 'slow', p[2], 0, p[1], 'IDLE', 3600000, 'JUSTID') end";
    for _ in 0..5 {
        world.redis(&["EVAL", age, "1", MAIN]).await;
        // Renewed within a second, and looked at twice as often.
        pause(1_500).await;
    }
    assert_eq!(world.seen.total("slow.started"), (3, 3));
    world.seen.open_gate();
    eventually("all are done", async || world.of("slow").await.done == 3).await;
    let crashes: i64 = sqlx::query_scalar(
        "SELECT CAST(COALESCE(SUM(crashes), 0) AS BIGINT) FROM termitary_deliveries",
    )
    .fetch_one(&mut *world.db.db().read().await.unwrap())
    .await
    .unwrap();
    assert_eq!(crashes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_committed_has_no_lease_to_lose_and_goes_on() {
    let world = World::new(&["lasting"]).await;
    let _worker = world.worker().await;
    world.commit(0..1).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("both went on to their end", async || {
        world.seen.total("lasting") == (2, 2)
    })
    .await;
    assert_eq!(world.of("lasting").await.done, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_an_entry_cannot_settle_it() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("it runs", async || world.seen.runs("slow.started", 1) == 1).await;
    // Another worker takes it, as XAUTOCLAIM would; the first finishes late.
    world
        .redis(&["XAUTOCLAIM", MAIN, "slow", "thief", "0", "0"])
        .await;
    world.seen.open_gate();
    pause(100).await;
    let pending: (i64, redis::Value, redis::Value, Vec<(String, i64)>) =
        redis::from_redis_value(world.redis(&["XPENDING", MAIN, "slow"]).await).unwrap();
    assert_eq!(pending.3, [("thief".to_owned(), 1)], "still the other's");
    assert_eq!(world.of("slow").await.done, 0);
    // The thief never settles: in time the delivery runs again, and is done.
    eventually("it is done", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_in_the_last_moment_of_its_carriers_lease_is_not_sent_again() {
    let world = World::leasing(Duration::from_secs(30), &["slow"]).await;
    let _worker = world.worker().await;
    let held = 0..8; // and read ahead
    world.commit(held).await;
    eventually("it holds what it can", async || {
        world.seen.total("slow.started").0 == 4
    })
    .await;
    world.commit(8..9).await;
    pause(500).await; // its entry is noted by now
    let mut tx = world.db.db().begin().await.unwrap();
    sqlx::query(
        "UPDATE termitary_deliveries SET worker = 'relay', entry = NULL,
            lease_us = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + 500000
         WHERE event = (SELECT max(seq) FROM termitary_events)",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    world.seen.let_through(8);
    eventually("it runs", async || world.seen.runs("slow.started", 8) == 1).await;
    pause(1500).await; // its carrier's lease is over, its own not renewed yet
    assert_eq!(world.seen.runs("slow.started", 8), 1);
    world.seen.open_gate();
    eventually("all are done", async || world.of("slow").await.done == 9).await;
    assert_eq!(world.seen.total("slow"), (9, 9));
}

/// The pending entries of this group, by consumer.
async fn pending(world: &World) -> Vec<(String, Vec<String>)> {
    let all = ["XPENDING", MAIN, "slow", "-", "+", "100"];
    let entries: Vec<(String, String, i64, i64)> =
        redis::from_redis_value(world.redis(&all).await).unwrap();
    let mut held: Vec<(String, Vec<String>)> = Vec::new();
    for (id, consumer, ..) in entries {
        match held.iter_mut().find(|(who, _)| *who == consumer) {
            Some((_, ids)) => ids.push(id),
            None => held.push((consumer, vec![id])),
        }
    }
    held
}

/// Three deliveries wait at the gate.
async fn three_run(world: &World) {
    let three = (0..3).map(|n| Made { n });
    world.broker.bus().publish_all(three).await.unwrap();
    eventually("all run", async || world.seen.total("slow.started").0 == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_ends_together_only_what_is_still_held_counts() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    three_run(&world).await;
    // One was ended by somebody else, who holds nothing by now.
    let first = pending(&world).await[0].1[0].clone();
    world.redis(&["XACK", MAIN, "slow", &first]).await;
    world.seen.open_gate();
    eventually("the others end", async || pending(&world).await.is_empty()).await;
    eventually("they are counted", async || world.of("slow").await.done > 0).await;
    assert_eq!(world.of("slow").await.done, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_what_another_worker_holds_ones_own_ends() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    three_run(&world).await;
    let middle = pending(&world).await[0].1[1].clone();
    let steal = ["XCLAIM", MAIN, "slow", "thief", "0", &middle];
    world.redis(&steal).await;
    world.seen.open_gate();
    eventually("the others end", async || {
        pending(&world).await == [("thief".to_owned(), vec![middle.clone()])]
    })
    .await;
    assert_eq!(world.of("slow").await.done, 2);
}

async fn robbed(_: Made, ledger: Ledger, State(db): State<Db>) -> HandlerResult {
    // Meanwhile somebody else takes the delivery over.
    let mut thief = db.begin().await?;
    sqlx::query("UPDATE termitary_deliveries SET fence = fence + 1 WHERE state = 1")
        .execute(&mut *thief)
        .await?;
    thief.commit().await?;
    ledger.begin().await?.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_does_not_stay_in_the_pending_list_until_its_lease_ends() {
    let (server, db) = (TestRedis::start(), TestDb::open().await);
    // A lease is 30 seconds here: longer than this test is patient.
    let broker = Broker::redis(db.db().clone(), server.config()).unwrap();
    let registry = Registry::new().on(subscribe("robbed", robbed));
    broker.register(&registry).await.unwrap();
    let mut worker = TestWorker::start(broker.clone(), registry, db.db().clone()).await;
    worker.allow_leftovers();
    let mut tx = db.db().begin().await.unwrap();
    tx.publish(Made { n: 1 }).await.unwrap();
    tx.commit().await.unwrap();
    let mut redis = redis::Client::open(("127.0.0.1", server.port()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut given = async || {
        let groups: Vec<std::collections::HashMap<String, redis::Value>> = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(MAIN)
            .query_async(&mut redis)
            .await
            .unwrap_or_default();
        let of = |name: &str| {
            let value = groups.first()?.get(name)?.clone();
            redis::from_redis_value::<i64>(value).ok()
        };
        (of("entries-read"), of("pending"))
    };
    eventually("it was given out, and let go", async || {
        given().await == (Some(1), Some(0))
    })
    .await;
    worker.stop().await;
}
