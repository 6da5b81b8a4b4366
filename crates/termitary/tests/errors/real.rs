//! The same from a real server: killed, full, busy, robbed of its scripts,
//! groups and streams.

use std::time::Duration;

use termitary::broker::Bridge;
use termitary::testing::TestRedis;

use crate::world::{MAIN, World, eventually};

const AGAIN: &str = "termitary:{things.made}:again:flaky";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_twenty_times_under_load_costs_nothing_committed() {
    let mut world = World::on(TestRedis::persistent(), Bridge::Both, 2).await;
    for _ in 0..20 {
        for _ in 0..3 {
            world.commit().await;
        }
        world.server.kill();
        world.commit().await;
        world.server.restart();
        world.commit().await;
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_closed_again_and_again_cost_nothing() {
    let mut world = World::new(2).await;
    for _ in 0..40 {
        world.commit().await;
        for kind in ["normal", "pubsub"] {
            world.redis(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_flushed_again_and_again_cost_nothing() {
    let mut world = World::new(2).await;
    for _ in 0..150 {
        world.commit().await;
        world.redis(&["SCRIPT", "FLUSH"]).await;
        world.try_bus().await;
        world.redis(&["SCRIPT", "FLUSH"]).await;
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_streams_removed_under_load_cost_nothing_committed() {
    // Without the record of outgoing messages, it would come in as new.
    let mut world = World::with(Bridge::In, 2).await;
    for round in 0..24 {
        world.commit().await;
        match round % 4 {
            0 => drop(world.redis(&["XGROUP", "DESTROY", MAIN, "swift"]).await),
            1 => drop(world.redis(&["DEL", MAIN]).await),
            2 => drop(world.redis(&["DEL", AGAIN]).await),
            _ => drop(world.redis(&["FLUSHALL"]).await),
        }
        world.commit().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_lost_its_hold_publishes_nothing_twice() {
    let mut world = World::new(2).await;
    world.assert_bridges("at first").await;
    for n in 0..120 {
        // The next worker to ask gets it; the other does not know for up to a second.
        if n % 30 == 0 {
            world.redis(&["DEL", "termitary:bridge"]).await;
        }
        world.commit().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_keeps_the_server_busy_is_waited_for() {
    let mut world = World::new(2).await;
    world
        .redis(&["CONFIG", "SET", "busy-reply-threshold", "50"])
        .await;
    let endless = ["EVAL", "while true do end", "0"];
    let busy = async { world.try_redis(&endless).await };
    let killed = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.redis(&["SCRIPT", "KILL"]).await
    };
    let (busy, _) = tokio::join!(busy, killed);
    assert!(busy.is_err(), "it was killed");
    world.commit().await;
    world.redis(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    world.commit().await;
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_its_disk_delays_and_loses_nothing() {
    let mut world = World::new(2).await;
    world.commit().await;
    eventually("the first is done", async || world.all_done().await).await;
    let dir = world.redis(&["CONFIG", "GET", "dir"]).await;
    let dir: std::collections::BTreeMap<String, String> = redis::from_redis_value(dir).unwrap();
    let dump = std::path::Path::new(&dir["dir"]).join("dump.rdb");
    // Nothing can be renamed to where a folder is.
    std::fs::create_dir(&dump).unwrap();
    world.redis(&["CONFIG", "SET", "save", "3600 1"]).await;
    world.redis(&["BGSAVE"]).await;
    eventually("it refuses writes", async || {
        let refused = world.try_redis(&["SET", "probe", "1"]).await;
        refused.is_err_and(|error| error.code() == Some("MISCONF"))
    })
    .await;
    for _ in 0..5 {
        world.commit().await;
    }
    let refused = world
        .broker
        .bus()
        .publish(crate::world::Made { n: -9 })
        .await;
    assert!(refused.is_err_and(|error| error.is_unavailable()));
    world.broker.inspect().status().await.unwrap();
    std::fs::remove_dir(&dump).unwrap();
    world.redis(&["BGSAVE"]).await;
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_what_runs_is_settled_and_plain_pubsub_still_comes_in() {
    let mut world = World::new(2).await;
    world.assert_bridges("at first").await;
    for _ in 0..20 {
        world.commit().await;
    }
    eventually("it is on the stream", async || {
        let length = world.redis(&["XLEN", MAIN]).await;
        redis::from_redis_value::<u64>(length).unwrap() >= 20
    })
    .await;
    world.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    eventually("what was there is finished", async || {
        let done: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects WHERE who = 'narrow'")
            .fetch_one(&mut *world.db.db().read().await.unwrap())
            .await
            .unwrap();
        done >= 20
    })
    .await;
    eventually("the stream is trimmed", async || {
        let length = world.redis(&["XLEN", MAIN]).await;
        redis::from_redis_value::<u64>(length).unwrap() == 0
    })
    .await;
    // Longer than the hold of the bridge lasts unless it is kept.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = came_in(&world).await;
    world
        .redis(&["PUBLISH", "plain.bridged", "{\"n\":-7}"])
        .await;
    eventually("it came in", async || came_in(&world).await > before).await;
    world.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    finish(world).await;
}

async fn came_in(world: &World) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events WHERE name = 'plain.bridged'")
        .fetch_one(&mut *world.db.db().read().await.unwrap())
        .await
        .unwrap()
}

async fn finish(mut world: World) {
    eventually("all is done", async || world.all_done().await).await;
    world.assert_once().await;
    world.assert_lives("in the end").await;
    world.stop().await;
}
