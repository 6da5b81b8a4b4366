//! A worker dies that held very much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};

use crate::world::{Bridged, LEASE, Made, eventually};

const ORPHANS: i64 = 50_000;
const MAIN: &str = "termitary:{things.made}:events";

#[derive(Clone, Default)]
struct Seen {
    orphans: Arc<AtomicU64>,
    fresh: Arc<AtomicU64>,
}

async fn orphan(_: Made, State(seen): State<Seen>) -> HandlerResult {
    seen.orphans.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn fresh(_: Bridged, State(seen): State<Seen>) -> HandlerResult {
    seen.fresh.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn registry() -> Registry<Seen> {
    Registry::new()
        .on(subscribe("orphan", orphan))
        .on(subscribe("fresh", fresh))
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_orphans_are_taken_over_in_pages_beside_other_work() {
    let (server, db) = (TestRedis::start(), TestDb::open_with(Clock::system()).await);
    let broker = Broker::builder(db.db().clone()).lease(LEASE);
    let broker = broker.redis(server.config()).unwrap();
    broker.register(&registry()).await.unwrap();
    for page in 0..50 {
        let events = (0..ORPHANS / 50).map(|n| Made { n: page * 1000 + n });
        broker.bus().publish_all(events).await.unwrap();
    }
    let client = redis::Client::open(("127.0.0.1", server.port())).unwrap();
    let patient =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_mins(1)));
    let mut conn = client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap();
    let dead = ["orphan", "dead", "COUNT", "50000", "STREAMS", MAIN, ">"];
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(&dead);
    let _: redis::Value = cmd.query_async(&mut conn).await.unwrap();
    let set = |name, value| {
        let mut cmd = redis::cmd("CONFIG");
        cmd.arg("SET").arg(name).arg(value);
        cmd
    };
    let _: () = set("slowlog-log-slower-than", "50000")
        .query_async(&mut conn)
        .await
        .unwrap();
    // Our own commands that create orphans are not measured.
    let mut reset = redis::cmd("SLOWLOG");
    let _: () = reset.arg("RESET").query_async(&mut conn).await.unwrap();
    let seen = Seen::default();
    let mut worker = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    worker.allow_leftovers();
    eventually("the takeover has begun", async || rows(&db).await > 0).await;
    let mut tx = db.db().begin().await.unwrap();
    tx.publish(Bridged { n: 1 }).await.unwrap();
    tx.commit().await.unwrap();
    eventually("other work goes on", async || {
        seen.fresh.load(Ordering::Relaxed) == 1
    })
    .await;
    assert!(rows(&db).await < ORPHANS, "while orphans still wait");
    let patience = std::time::Instant::now() + Duration::from_mins(4);
    while rows(&db).await < ORPHANS + 1 {
        assert!(std::time::Instant::now() < patience, "orphans stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let slow: Vec<redis::Value> = redis::cmd("SLOWLOG")
        .arg("GET")
        .query_async(&mut conn)
        .await
        .unwrap();
    assert!(slow.is_empty(), "commands of more than 50 ms: {slow:?}");
    worker.stop().await;
}

/// Number of deliveries that the ledger has adopted.
async fn rows(db: &TestDb) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events")
        .fetch_one(&mut *db.db().read().await.unwrap())
        .await
        .unwrap()
}
