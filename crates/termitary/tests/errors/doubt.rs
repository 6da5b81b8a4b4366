//! Without a reply of Redis the outcome is unknown: neither lost, nor another writer's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};
use tokio::sync::Semaphore;

use crate::proxy::{Fault, Proxy};
use crate::world::{MAIN, Made, World, broker, config, eventually};

/// Runs per event, and a gate that holds them.
#[derive(Clone)]
struct Gate {
    runs: Arc<Mutex<BTreeMap<i64, u32>>>,
    gate: Arc<Semaphore>,
}

async fn guarded(event: Made, State(gate): State<Gate>) -> HandlerResult {
    *gate.runs.lock().unwrap().entry(event.n).or_default() += 1;
    let _ = gate.gate.acquire().await;
    Ok(())
}

fn guards() -> Registry<Gate> {
    Registry::new().on(subscribe("guarded", guarded).concurrency(4))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_an_entry_is_not_taken_for_its_loss() {
    let (server, db) = (TestRedis::start(), TestDb::open_with(Clock::system()).await);
    let proxy = Proxy::start(server.port());
    let gate = Gate {
        runs: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
    };
    let mut workers = Vec::new();
    for _ in 0..2 {
        let broker = broker(db.db(), config(&proxy));
        let mut worker = TestWorker::start(broker, guards(), gate.clone()).await;
        worker.allow_leftovers();
        workers.push(worker);
    }
    let mut tx = db.db().begin().await.unwrap();
    for n in 0..12 {
        tx.publish(Made { n }).await.unwrap();
    }
    tx.commit().await.unwrap();
    let running = || gate.runs.lock().unwrap().len();
    eventually("both work", async || running() == 8).await;
    for command in ["XPENDING", "XRANGE", "XINFO"] {
        proxy.strike(command, Fault::Answer("BUSY Redis is busy"));
        eventually("it was asked", async || proxy.struck() > 8).await;
    }
    proxy.heal();
    gate.gate.close();
    workers[0].settle().await;
    // An event that was sent again would run by now.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    workers[0].settle().await;
    let runs = gate.runs.lock().unwrap().clone();
    assert!(
        runs.len() == 12 && runs.values().all(|n| *n == 1),
        "{runs:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_event_counts_once_whatever_becomes_of_the_answer_to_its_end() {
    for fault in [
        Fault::Swallow,
        Fault::Half,
        Fault::Reset,
        Fault::Answer("BUSY Redis is busy"),
    ] {
        let (server, db) = (TestRedis::start(), TestDb::open_with(Clock::system()).await);
        let proxy = Proxy::start(server.port());
        let gate = Gate {
            runs: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let broker = broker(db.db(), config(&proxy));
        let mut worker = TestWorker::start(broker.clone(), guards(), gate.clone()).await;
        worker.allow_leftovers();
        let events = (0..4).map(|n| Made { n });
        broker.bus().publish_all(events).await.unwrap();
        let running = || gate.runs.lock().unwrap().len();
        eventually("all run", async || running() == 4).await;
        proxy.strike("EVALSHA", fault);
        gate.gate.close();
        eventually("the ledger notes that they are finished", async || {
            let noted = "SELECT COUNT(*) FROM termitary_deliveries WHERE state = 2";
            let noted: i64 = sqlx::query_scalar(noted)
                .fetch_one(&mut *db.db().read().await.unwrap())
                .await
                .unwrap();
            noted == 4
        })
        .await;
        proxy.heal();
        let status = async || broker.inspect().status().await.unwrap().subscriptions[0].clone();
        eventually("no entry is left", async || {
            let status = status().await;
            (status.pending, status.leased) == (0, 0)
        })
        .await;
        worker.stop().await;
        assert_eq!((status().await.done, running()), (4, 4), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_sent_out_ourselves_never_comes_in_as_new() {
    let mut world = World::new(1).await;
    world.assert_bridges("at first").await;
    for fault in [
        Fault::Answer("BUSY Redis is busy"),
        Fault::Half,
        Fault::Swallow,
        Fault::Reset,
    ] {
        // Sent out, then heard while Redis cannot confirm that it is ours.
        for _ in 0..5 {
            world.commit().await;
        }
        world.proxy.strike("EVALSHA", fault);
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.proxy.heal();
        eventually("all is done", async || world.all_done().await).await;
    }
    let echoes: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM termitary_events WHERE source = '/termitary/bridge' AND name = 'things.made'",
    )
    .fetch_one(&mut *world.db.db().read().await.unwrap())
    .await
    .unwrap();
    assert_eq!(echoes, 0);
    world.assert_once().await;
    world.assert_bridges("in the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_stops_its_own_event_only() {
    let mut world = World::new(2).await;
    world.commit().await;
    eventually("the first is done", async || world.all_done().await).await;
    let stream = "termitary:{plain.bridged}:events";
    world.redis(&["DEL", stream]).await;
    world.redis(&["SET", stream, "in the way"]).await;
    let mut tx = world.db.db().begin().await.unwrap();
    tx.publish_json("plain.bridged", "{\"n\":-1}")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for _ in 0..3 {
        for _ in 0..8 {
            world.commit().await;
        }
        // A process takes some and dies: only housekeeping finds them.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let dead = ["XREADGROUP", "GROUP", "narrow", "dead", "COUNT", "2"];
        let from = ["STREAMS", MAIN, ">"];
        world.redis(&[&dead[..], &from].concat()).await;
        eventually("others go on", async || world.all_done().await).await;
    }
    world.redis(&["DEL", stream]).await;
    eventually("it comes when the way is free", async || {
        let done: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects WHERE n = -1")
            .fetch_one(&mut *world.db.db().read().await.unwrap())
            .await
            .unwrap();
        done == 1
    })
    .await;
    world.assert_once().await;
}
