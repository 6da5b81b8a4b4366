//! The servers that may be used, and the ledgers that own them.

use std::time::Duration;

use sqlx::Connection as _;
use termitary::broker::RedisConfig;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis};

use crate::world::{Made, World, eventually, pause, registry};

const MAIN: &str = "termitary:{things.made}:events";
const OWNER: &str = "termitary:ledger";

async fn owner(world: &World) -> String {
    redis::from_redis_value(world.redis(&["GET", OWNER]).await).unwrap_or_default()
}

/// The whole text of an error.
fn text(error: &termitary::Error) -> String {
    format!("{error:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ledger_is_refused_and_nothing_of_the_first_is_touched() {
    let world = World::new(&["slow"]).await;
    let ours = owner(&world).await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    let db = TestDb::open().await;
    let theirs = Broker::redis(db.db().clone(), world.config()).unwrap();
    let registered = theirs.register(&registry(&["slow", "first"])).await;
    let error = registered.unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
    let said = text(&error);
    for part in [&ours, OWNER, "redis-cli", "DEL", "prefix"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(theirs.bus().publish(Made { n: 2 }).await.is_err());
    assert!(theirs.bus().broadcast(Made { n: 2 }).await.is_err());
    let worker = Worker::new(theirs, registry(&["slow"])).state(world.seen.clone());
    let ended = worker.run(std::future::pending()).await;
    assert!(ended.is_err_and(|error| error.is_invalid()));
    assert_eq!(world.number(&["XLEN", MAIN]).await, 1);
    let groups = format!("{:?}", world.redis(&["XINFO", "GROUPS", MAIN]).await);
    assert!(!groups.contains("first"), "{groups}");
    assert_eq!(owner(&world).await, ours);
    // The ways out.
    for config in [world.config().prefix("theirs"), world.config().database(1)] {
        let broker = Broker::redis(db.db().clone(), config).unwrap();
        broker.register(&registry(&["slow"])).await.unwrap();
    }
    world.redis(&["DEL", OWNER]).await;
    let theirs = Broker::redis(db.db().clone(), world.config()).unwrap();
    theirs.register(&registry(&["slow"])).await.unwrap();
    assert_ne!(owner(&world).await, ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_of_the_ledger_and_its_restored_file_are_the_same_ledger() {
    let world = World::new(&["first"]).await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("restored.db");
    let url = format!("sqlite://{}", world.db.db().place());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("VACUUM INTO $1")
        .bind(copy.to_str())
        .execute(&mut conn)
        .await
        .unwrap();
    let restored = Db::open(&format!("sqlite://{}", copy.display()))
        .await
        .unwrap();
    for db in [world.db.db().clone(), restored] {
        let broker = Broker::redis(db, world.config()).unwrap();
        broker.register(&registry(&["first"])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_emptied_is_claimed_again() {
    let world = World::new(&["first"]).await;
    let ours = owner(&world).await;
    let _worker = world.worker().await;
    world.redis(&["FLUSHALL"]).await;
    eventually("it is claimed again", async || owner(&world).await == ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_claimed_too() {
    let world = World::new(&["first"]).await;
    let ours = owner(&world).await;
    world.redis(&["DEL", OWNER]).await;
    world.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let broker = world.broker_with(world.config());
    broker.ping().await.unwrap();
    assert_eq!(owner(&world).await, ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_redis_was_handed_over_lets_go_of_it_and_comes_back() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world.broker.bus().publish(Made { n: 1 }).await.unwrap();
    eventually("it works", async || world.seen.runs("first", 1) == 1).await;
    world.redis(&["SET", OWNER, "another"]).await;
    pause(7_000).await; // it looks every five seconds
    world.redis(&["XADD", MAIN, "*", "d", r#"{"n":2}"#]).await;
    pause(2_500).await; // longer than a read waits
    assert_eq!(world.seen.runs("first", 2), 0);
    world.redis(&["DEL", OWNER]).await;
    eventually("it works again", async || world.seen.runs("first", 2) == 1).await;
}

async fn refusal(db: &TestDb, config: RedisConfig) -> termitary::Error {
    let broker = Broker::redis(db.db().clone(), config).unwrap();
    broker.ping().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_an_invalid_setting_at_the_first_connection() {
    let (db, primary, replica) = (TestDb::open().await, TestRedis::start(), TestRedis::start());
    let follow = ["127.0.0.1", &primary.port().to_string()].map(str::to_owned);
    let client = redis::Client::open(("127.0.0.1", replica.port())).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = redis::cmd("REPLICAOF")
        .arg(&follow)
        .query_async(&mut conn)
        .await
        .unwrap();
    let wrong = primary.config().username("nobody").password("a secret");
    for (config, says) in [
        (replica.config(), "replica of 127.0.0.1"),
        (primary.config().database(99), "no database 99"),
        (wrong, "user or password"),
    ] {
        let error = refusal(&db, config).await;
        assert!(error.is_invalid(), "{error:?}");
        assert!(text(&error).contains(says), "{error:?}");
        assert!(!text(&error).contains("a secret"), "{error:?}");
    }
    for config in [
        RedisConfig::host("127.0.0.1:6379", 6379),
        RedisConfig::host("127.0.0.1", 0),
        primary.config().username("somebody"),
    ] {
        let broker = Broker::redis(db.db().clone(), config);
        assert!(broker.is_err_and(|error| error.is_invalid()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_becomes_a_replica_is_an_outage_until_it_is_one_again() {
    let world = World::new(&["first"]).await;
    let primary = TestRedis::start();
    let _worker = world.worker().await;
    let port = primary.port().to_string();
    world.redis(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("it is an outage", async || {
        world.broker.bus().publish(Made { n: 1 }).await.is_err()
    })
    .await;
    world.commit(2..3).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = world.broker.bus().publish(Made { n: 1 }).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    world.status().await;
    world.redis(&["REPLICAOF", "NO", "ONE"]).await;
    // It has taken over the other server's data: nothing, and no users.
    crate::world::grant(&world.server).await;
    eventually("it runs", async || world.seen.runs("first", 2) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_redis_is_refused_beside_one_with_it() {
    let world = World::new(&["first"]).await;
    let mut worker = world.worker().await;
    let live = async || world.status().await.workers.len() == 1;
    eventually("the first one is live", live).await;
    let alone = Broker::builder(world.db.db().clone()).sql();
    let run = || {
        Worker::new(alone.clone(), registry(&["first"]))
            .state(world.seen.clone())
            .run(pause(200))
    };
    let refused = run().await.unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.contains("`redis`") && text.contains("`sqlite`"),
        "{text}"
    );
    assert!(live().await);
    worker.stop().await;
    run().await.unwrap();
}
