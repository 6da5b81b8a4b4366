//! The server dies, or ends every connection, while workers run and publishers publish.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use termitary::prelude::*;
use tokio::task::JoinHandle;

use crate::world::{Made, World, eventually, make};

/// Publishes one after the other, in transactions and on the bus, until told to stop.
struct Publisher {
    stop: Arc<AtomicBool>,
    task: JoinHandle<BTreeSet<i64>>,
}

impl Publisher {
    fn start(broker: &Broker, first: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (broker, over) = (broker.clone(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut owed = BTreeSet::new();
            let mut n = first;
            while !over.load(Ordering::SeqCst) {
                n += 1;
                let told = if n % 2 == 0 {
                    make(broker.db(), n).await
                } else {
                    broker.bus().publish(Made { n }).await.map(drop)
                };
                match told {
                    Ok(()) => drop(owed.insert(n)),
                    // The outcome is unknown.
                    Err(error) => assert!(error.is_unavailable(), "{error:?}"),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            owed
        });
        Self { stop, task }
    }

    async fn end(self) -> BTreeSet<i64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_dies_and_comes_back_loses_and_doubles_nothing() {
    let mut world = World::new(2).await;
    let publishers: Vec<_> = (0..3)
        .map(|p| Publisher::start(&world.broker, p * 1_000_000))
        .collect();
    for outage in [100, 900, 2500] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let done = world.effects().await.len();
        tokio::task::block_in_place(|| world.server.kill());
        tokio::time::sleep(Duration::from_millis(outage)).await;
        tokio::task::block_in_place(|| world.server.restart());
        eventually("workers go on", async || world.effects().await.len() > done).await;
    }
    let mut owed = BTreeSet::new();
    for publisher in publishers {
        owed.append(&mut publisher.end().await);
    }
    eprintln!("{} acknowledged", owed.len());
    world.finishes(&owed).await;
}

/// The processes of the server whose connection listens.
const LISTENERS: &str =
    "SELECT pid::bigint FROM pg_stat_activity WHERE query LIKE 'LISTEN%' ORDER BY pid";
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_the_server_ends_are_replaced_and_those_that_listen_too() {
    let mut world = World::new(2).await;
    let publisher = Publisher::start(&world.broker, 0);
    eventually("both listen", async || {
        world.numbers(LISTENERS).await.len() >= 2
    })
    .await;
    for _ in 0..5 {
        let before = world.numbers(LISTENERS).await;
        let done = world.effects().await.len();
        world.write(TERMINATE).await;
        eventually("they listen again", async || {
            let now = world.numbers(LISTENERS).await;
            now.len() >= 2 && !now.iter().any(|pid| before.contains(pid))
        })
        .await;
        eventually("workers go on", async || world.effects().await.len() > done).await;
    }
    let owed = publisher.end().await;
    world.finishes(&owed).await;
}
