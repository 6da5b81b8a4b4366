//! An event that was renamed: its subscription reads the streams of both names.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::world::{Made, Seen, World, eventually, pause};

/// [`Made`], renamed.
#[derive(Serialize, Deserialize)]
struct Assembled {
    n: u32,
}

impl Event for Assembled {
    const NAME: &'static str = "things.assembled";
    const ALIASES: &'static [&'static str] = &["things.made"];
}

async fn assembled(event: Assembled, State(seen): State<Seen>) -> HandlerResult {
    seen.note("assembled", event.n);
    Ok(())
}

async fn worker(world: &World, concurrency: usize) -> TestWorker {
    let subscription = subscribe("assembled", assembled).concurrency(concurrency);
    let registry = Registry::new().on(subscription);
    let broker = world.broker_with(world.config());
    let mut worker = TestWorker::start(broker, registry, world.seen.clone()).await;
    worker.allow_leftovers();
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_is_woken_by_every_name_of_its_event() {
    let world = World::new(&[]).await;
    let _worker = worker(&world, 1).await;
    let bus = world.broker.bus();
    let mut took = Vec::new();
    for n in 0..20 {
        pause(100).await;
        let published = Instant::now();
        if n % 2 == 0 {
            bus.publish(Made { n }).await.unwrap();
        } else {
            bus.publish(Assembled { n }).await.unwrap();
        }
        while world.seen.runs("assembled", n) == 0 {
            assert!(published.elapsed() < Duration::from_secs(20), "{n}");
            pause(1).await;
        }
        took.push(published.elapsed());
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_streams_of_both_names() {
    let world = World::new(&[]).await;
    let mut workers = Vec::new();
    for concurrency in [1, 1, 8] {
        workers.push(worker(&world, concurrency).await);
    }
    let bus = world.broker.bus();
    for n in 0..200 {
        bus.publish(Made { n }).await.unwrap();
        bus.publish(Assembled { n: 1000 + n }).await.unwrap();
    }
    let all = async || world.seen.total("assembled").0 == 400;
    eventually("all are handled", all).await;
    assert_eq!(world.seen.total("assembled"), (400, 400), "once each");
}
