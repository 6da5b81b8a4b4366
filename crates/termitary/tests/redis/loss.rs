//! Redis loses data or goes away: that costs time, not events.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use termitary::prelude::*;
use termitary::testing::TestRedis;

use crate::world::{Made, World, eventually, pause};

const MAIN: &str = "termitary:{things.made}:events";

#[tokio::test(flavor = "multi_thread")]
async fn flushall_loses_no_committed_event_and_runs_no_finished_one_again() {
    let world = World::new(&["first", "slow"]).await;
    let _worker = world.worker().await;
    world.commit(0..30).await;
    eventually("the fast one is done", async || {
        world.of("first").await.done == 30
    })
    .await;
    eventually("the slow one has begun", async || {
        world.seen.total("slow.started").0 == 4
    })
    .await;
    world.redis(&["FLUSHALL"]).await;
    world.commit(30..40).await;
    eventually("all is done", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 40 && world.of("first").await.done == 40
    })
    .await;
    assert_eq!(
        world.seen.total("first"),
        (40, 40),
        "finished ones did not run again"
    );
    assert_eq!(
        world.seen.total("slow"),
        (40, 40),
        "running ones were left to their worker"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_lost_group_is_counted() {
    let world = World::new(&["first"]).await;
    world.redis(&["FLUSHALL"]).await;
    let events = (0..3).map(|n| Made { n });
    world.broker.bus().publish_all(events).await.unwrap();
    let status = world.of("first").await;
    assert_eq!((status.pending, status.due), (3, 3));
    let _worker = world.worker().await;
    eventually("all is done", async || world.of("first").await.done == 3).await;
}

/// Redis 7.0 keeps counting deleted entries in the lag of a group.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_from_a_stream_does_not_wait_for_ever() {
    let world = World::new(&["first"]).await;
    let mut worker = world.worker().await;
    world.broker.bus().publish(Made { n: 0 }).await.unwrap();
    eventually("it is done", async || world.of("first").await.done == 1).await;
    worker.stop().await;
    let events = (1..4).map(|n| Made { n });
    world.broker.bus().publish_all(events).await.unwrap();
    assert_eq!(world.of("first").await.pending, 3);
    let script = "for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do redis.call('XDEL', KEYS[1], e[1]) end";
    world.redis(&["EVAL", script, "1", MAIN]).await;
    assert_eq!(world.of("first").await.pending, 0);
    world.broker.bus().publish(Made { n: 4 }).await.unwrap();
    assert_eq!(world.of("first").await.pending, 1);
    let _worker = world.worker().await;
    eventually("it is done", async || world.of("first").await.done == 2).await;
    assert_eq!(world.of("first").await.pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_destroyed_under_a_reader_is_made_again() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world.commit(0..5).await;
    eventually("the first are done", async || {
        world.of("first").await.done == 5
    })
    .await;
    world.redis(&["XGROUP", "DESTROY", MAIN, "first"]).await;
    world.commit(5..10).await;
    world.broker.bus().publish(Made { n: 10 }).await.unwrap();
    eventually("all is done", async || world.seen.total("first").0 == 11).await;
    pause(300).await;
    assert_eq!(world.seen.total("first"), (11, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_comes_back_empty_is_filled_again() {
    let mut world = World::new(&["first", "slow"]).await;
    let worker = world.worker().await;
    world.commit(0..20).await;
    eventually("some run", async || world.seen.total("slow.started").0 == 4).await;
    world.server.kill();
    world.commit(20..40).await; // the ledger takes them all the same
    pause(500).await;
    world.restart().await;
    eventually("all is done", async || {
        world.seen.open_gate();
        world.of("first").await.done == 40 && world.of("slow").await.done == 40
    })
    .await;
    assert_eq!(world.seen.total("first").0, 40);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_with_a_file_goes_on_where_it_was() {
    let mut world = World::on(TestRedis::persistent(), &["first"], |config| config).await;
    // By default a busy disk delays even the writing, by up to two seconds.
    world
        .redis(&["CONFIG", "SET", "appendfsync", "always"])
        .await;
    world
        .broker
        .bus()
        .publish_all((0..50).map(|n| Made { n }))
        .await
        .unwrap();
    world.server.kill();
    let refused = world.broker.bus().publish(Made { n: 99 }).await;
    assert!(refused.is_err_and(|error| error.is_unavailable()));
    world.restart().await;
    let _worker = world.worker().await;
    eventually("all is done", async || world.of("first").await.done == 50).await;
    assert_eq!(world.seen.total("first"), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_before_redis_waits_for_it() {
    let mut world = World::new(&["first"]).await;
    world.server.kill();
    let _worker = world.worker().await;
    world.commit(0..3).await;
    pause(300).await;
    world.restart().await;
    eventually("all is done", async || world.of("first").await.done == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_scripts_are_loaded_again() {
    let world = World::new(&["first", "flaky"]).await;
    let _worker = world.worker().await;
    for n in 0..10 {
        world.redis(&["SCRIPT", "FLUSH"]).await;
        world.broker.bus().publish(Made { n }).await.unwrap();
        pause(20).await;
    }
    eventually("all is done", async || {
        world.of("first").await.done == 10 && world.of("flaky").await.done == 10
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_out_of_memory_takes_nothing_new_and_loses_nothing() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    world.commit(0..5).await;
    let refused = world.broker.bus().publish(Made { n: 99 }).await;
    assert!(refused.is_err_and(|error| error.is_unavailable()));
    pause(500).await;
    assert_eq!(world.seen.total("first"), (0, 0));
    world.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("all is done", async || world.of("first").await.done == 5).await;
    assert_eq!(world.seen.total("first"), (5, 5));
}

/// The folder of the server's append-only file.
async fn files(world: &World) -> PathBuf {
    let answer = world.redis(&["CONFIG", "GET", "dir"]).await;
    let pairs: BTreeMap<String, String> = redis::from_redis_value(answer).unwrap();
    Path::new(&pairs["dir"]).join("appendonlydir")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The state after a failover to a replica that was behind: acknowledged entries are back, groups
/// have their old positions, the newest entries are missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_older_data_loses_no_event_and_runs_no_finished_one_again() {
    let mut world = World::on(TestRedis::persistent(), &["first", "slow"], |c| c).await;
    let _worker = world.worker().await;
    world.commit(0..10).await;
    eventually("some run, and wait", async || {
        world.of("first").await.done == 10 && world.seen.total("slow.started").0 == 4
    })
    .await;
    let files = files(&world).await;
    let old = tempfile::tempdir().unwrap();
    world.server.kill();
    copy(&files, old.path());
    world.restart().await;
    world.seen.open_gate();
    world.commit(10..30).await;
    eventually("all of it is done", async || {
        world.of("first").await.done == 30 && world.of("slow").await.done == 30
    })
    .await;
    let seen = world.seen.clone();
    let runs = |name| (0..30).map(|n| seen.runs(name, n)).sum::<u32>();
    let before = (runs("first"), runs("slow"));
    // Back to where ten of them waited or ran.
    world.server.kill();
    std::fs::remove_dir_all(&files).unwrap();
    copy(old.path(), &files);
    world.restart().await;
    assert!(
        world.number(&["XLEN", MAIN]).await > 0,
        "it is back in time"
    );
    world.commit(30..40).await;
    eventually("the rest is done", async || {
        world.of("first").await.done == 40 && world.of("slow").await.done == 40
    })
    .await;
    eventually("what was offered again is ended", async || {
        world.number(&["XLEN", MAIN]).await == 0
    })
    .await;
    assert_eq!((runs("first"), runs("slow")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_data_is_asked_at_the_reconnect_and_not_in_its_turn() {
    let mut world = World::new(&["slow"]).await;
    let patient = world.config().reconcile_after(hours(1));
    let _worker = world.worker_with(patient).await;
    world.commit(0..20).await;
    eventually("some run", async || world.seen.total("slow.started").0 == 4).await;
    world.server.kill();
    world.restart().await;
    eventually("all is done", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_vanishes_alone_is_sent_again_in_its_turn() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    world.commit(0..20).await;
    eventually("all are handed over", async || {
        world.number(&["XLEN", MAIN]).await == 20
    })
    .await;
    eventually("some run", async || world.seen.total("slow.started").0 == 4).await;
    let newest = world
        .redis(&["XREVRANGE", MAIN, "+", "-", "COUNT", "5"])
        .await;
    let newest: Vec<(String, Vec<String>)> = redis::from_redis_value(newest).unwrap();
    for (id, _) in newest {
        assert_eq!(world.number(&["XDEL", MAIN, &id]).await, 1);
    }
    eventually("all is done", async || {
        world.seen.open_gate();
        world.of("slow").await.done == 20
    })
    .await;
    assert_eq!(world.seen.total("slow"), (20, 20));
}
