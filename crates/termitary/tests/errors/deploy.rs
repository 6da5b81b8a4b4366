//! Two releases at once: events unknown to the older wait for the newer, and the change uses up no
//! attempt.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};

use crate::world::eventually;

#[derive(Serialize, Deserialize)]
struct Old {
    n: i64,
}

impl Event for Old {
    const NAME: &'static str = "things.changed";
}

#[derive(Serialize, Deserialize)]
struct New {
    n: i64,
    #[serde(default)]
    more: Option<String>,
}

impl Event for New {
    const NAME: &'static str = "things.changed";
    const VERSION: u32 = 2;
}

#[derive(Serialize, Deserialize)]
struct Added {
    n: i64,
}

impl Event for Added {
    const NAME: &'static str = "things.added";
}

/// `(release, event, attempt)` of every run.
type Runs = Arc<Mutex<Vec<(&'static str, i64, u32)>>>;

async fn old(event: Old, State(runs): State<Runs>, Attempt(attempt): Attempt) -> HandlerResult {
    runs.lock().unwrap().push(("old", event.n, attempt));
    // Still at work when its release is stopped.
    tokio::time::sleep(Duration::from_millis(if event.n == 7 { 60_000 } else { 5 })).await;
    Ok(())
}

async fn new(event: New, State(runs): State<Runs>, Attempt(attempt): Attempt) -> HandlerResult {
    runs.lock().unwrap().push(("new", event.n, attempt));
    drop(event.more);
    Ok(())
}

async fn added(event: Added, State(runs): State<Runs>, Attempt(attempt): Attempt) -> HandlerResult {
    runs.lock().unwrap().push(("added", event.n, attempt));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_leaves_what_it_does_not_know_to_a_newer_one_on_sqlite() {
    roll(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_leaves_what_it_does_not_know_to_a_newer_one_on_redis() {
    roll(Some(TestRedis::start())).await;
}

async fn roll(redis: Option<TestRedis>) {
    let db = TestDb::open_with(Clock::system()).await;
    let broker = || match &redis {
        Some(redis) => Broker::redis(db.db().clone(), redis.config()).unwrap(),
        None => Broker::sql(db.db().clone()),
    };
    let runs = Runs::default();
    let older = || Registry::new().on(subscribe("thing", old));
    let newer = || {
        Registry::new()
            .on(subscribe("thing", new))
            .on(subscribe("added", added))
    };
    let mut before = TestWorker::start(broker(), older(), runs.clone()).await;
    before.allow_leftovers();
    publish(&db, Old { n: 1 }).await;
    eventually("the old one works", async || ran(&runs) == [("old", 1, 1)]).await;
    // The new API starts before the new workers do.
    let api = broker();
    let changed = New {
        n: 2,
        more: Some("x".to_owned()),
    };
    publish(&db, changed).await;
    eventually("what it cannot read is parked", async || {
        let status = api.inspect().status().await.unwrap();
        status.subscriptions.iter().any(|s| s.parked == 1)
    })
    .await;
    assert_eq!(ran(&runs), [("old", 1, 1)]);
    // The new worker registers; the old one still runs beside it and knows
    // nothing of the new subscription.
    publish(&db, Old { n: 7 }).await;
    eventually("the old one is at work", async || {
        ran(&runs).contains(&("old", 7, 1))
    })
    .await;
    let mut after = TestWorker::start(broker(), newer(), runs.clone()).await;
    after.allow_leftovers();
    for n in 10..20 {
        publish(&db, Added { n }).await;
        publish(&db, Old { n }).await;
    }
    eventually("each is run by who knows it", async || {
        let ran = ran(&runs);
        (10..20).all(|n| ran.contains(&("added", n, 1)))
            && ran.contains(&("new", 2, 1))
            && (10..20).all(|n| {
                ran.iter()
                    .filter(|(who, m, _)| *who != "added" && *m == n)
                    .count()
                    == 1
            })
    })
    .await;
    // The old release stops in the middle of its work; TestWorker gives it
    // five seconds, which are not enough.
    before.stop().await;
    eventually("the new one goes on, with the first attempt", async || {
        ran(&runs).contains(&("new", 7, 1))
    })
    .await;
    after.settle().await;
    let status = after.status().await;
    for one in &status.subscriptions {
        assert_eq!((one.dead, one.parked, one.pending), (0, 0, 0), "{one:?}");
    }
    after.stop().await;
}

fn ran(runs: &Runs) -> Vec<(&'static str, i64, u32)> {
    runs.lock().unwrap().clone()
}

async fn publish<E: Event>(db: &TestDb, event: E) {
    let mut tx = db.db().begin().await.unwrap();
    tx.publish(event).await.unwrap();
    tx.commit().await.unwrap();
}
