//! Publishes asked at the same time share pipelines, and nothing else.

use futures_util::future::join_all;
use redis::Value;
use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use termitary::testing::TestRedis;

use crate::world::{Made, World, eventually};

const MAIN: &str = "termitary:{things.made}:events";

#[derive(Serialize, Deserialize)]
struct Refused {}

impl Event for Refused {
    const NAME: &'static str = "things.refused";
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_at_the_same_time_all_arrive_once_and_under_their_ids() {
    let world = World::new(&["first"]).await;
    let bus = world.broker.bus();
    let published = join_all((0..1000).map(|n| bus.publish(Made { n }))).await;
    let mut told: Vec<_> = published
        .into_iter()
        .map(|published| published.unwrap().id.to_string())
        .collect();
    let mut there = ids(&world).await;
    told.sort();
    there.sort();
    assert_eq!(told, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refuses_to_one_caller_it_refuses_to_no_other() {
    let world = World::new(&["first"]).await;
    let key = "termitary:{things.refused}:events";
    world.redis(&["SET", key, "no stream"]).await;
    let bus = world.broker.bus();
    let made = join_all((0..200).map(|n| bus.publish(Made { n })));
    let refused = join_all((0..200).map(|_| bus.publish(Refused {})));
    let (made, refused) = tokio::join!(made, refused);
    assert!(made.iter().all(Result::is_ok));
    let refusals = refused.into_iter().filter_map(Result::err);
    assert_eq!(
        refusals.filter(termitary::Error::is_unavailable).count(),
        200
    );
    assert_eq!(world.number(&["XLEN", MAIN]).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_take_nothing_from_those_that_wait() {
    let world = World::new(&["first"]).await;
    let bus = world.broker.bus();
    let (stay, go): (Vec<_>, Vec<_>) = (0..400)
        .map(|n| {
            let bus = bus.clone();
            let task = tokio::spawn(async move { bus.publish(Made { n }).await });
            (n, task)
        })
        .partition(|(n, _)| n % 2 == 0);
    for (_, task) in go {
        task.abort();
    }
    for (_, task) in stay {
        task.await.unwrap().unwrap();
    }
    assert!(world.number(&["XLEN", MAIN]).await >= 200);
    bus.publish(Made { n: 400 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_leaves_nobody_waiting_and_keeps_what_it_confirmed() {
    let mut world = World::on(TestRedis::persistent(), &["first"], |config| config).await;
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let bus = world.broker.bus();
            tokio::spawn(async move {
                let mut confirmed = Vec::new();
                for n in 0.. {
                    match bus.publish(Made { n: caller + 64 * n }).await {
                        Ok(published) => confirmed.push(published.id.to_string()),
                        Err(error) => {
                            assert!(error.is_unavailable(), "{error:?}");
                            return confirmed;
                        }
                    }
                }
                confirmed
            })
        })
        .collect();
    while world.number(&["XLEN", MAIN]).await < 1000 {}
    world.server.kill();
    let mut confirmed = Vec::new();
    for caller in callers {
        confirmed.extend(caller.await.unwrap());
    }
    world.restart().await;
    let there = ids(&world).await;
    assert!(confirmed.len() >= 900, "{}", confirmed.len());
    assert!(confirmed.iter().all(|id| there.contains(id)));
    let bus = world.broker.bus();
    eventually("it goes on", async || {
        bus.publish(Made { n: 0 }).await.is_ok()
    })
    .await;
}

#[test]
fn a_runtime_that_ends_with_publishes_under_way_hinders_no_other() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let lasting = runtime();
    let world = lasting.block_on(World::new(&["first"]));
    let bus = world.broker.bus();
    for round in 0..20 {
        let short = runtime();
        for n in 0..200 {
            let bus = bus.clone();
            short.spawn(async move { bus.publish(Made { n }).await });
        }
        if round % 2 == 0 {
            short.block_on(tokio::task::yield_now());
        }
        short.shutdown_background();
        // Its connection ends with it; that costs some errors and no more.
        lasting.block_on(eventually("others publish", async || {
            let publishes = (0..100).map(|n| bus.publish(Made { n }));
            join_all(publishes).await.iter().all(Result::is_ok)
        }));
    }
}

/// The events on the main stream.
async fn ids(world: &World) -> Vec<String> {
    let found = world.redis(&["XRANGE", MAIN, "-", "+"]).await;
    let Value::Array(entries) = found else {
        return Vec::new();
    };
    entries.into_iter().filter_map(id).collect()
}

fn id(entry: Value) -> Option<String> {
    let (_, fields): (String, Vec<(String, String)>) = redis::from_redis_value(entry).ok()?;
    let (_, head) = fields.into_iter().find(|(name, _)| name == "e")?;
    head.split(' ').next().map(str::to_owned)
}
