//! The meaning of "alone", within one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};

use crate::suspects::Fed;

const SUSPECT: u32 = 0;

#[derive(Clone, Default)]
struct Table(Arc<Seats>);

#[derive(Default)]
struct Seats {
    taken: AtomicU32,
    served: AtomicU32,
    /// Number of deliveries that ran beside the suspect, over all its runs.
    beside: AtomicU32,
    suspected: AtomicU32,
}

async fn dine(event: Fed, State(Table(seats)): State<Table>) -> HandlerResult {
    let beside = seats.taken.fetch_add(1, Ordering::SeqCst);
    let served = seats.served.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(30)).await;
    seats.taken.fetch_sub(1, Ordering::SeqCst);
    if event.n != SUSPECT {
        return Ok(());
    }
    let came = seats.served.load(Ordering::SeqCst) - served - 1;
    seats.beside.fetch_add(beside + came, Ordering::SeqCst);
    if seats.suspected.fetch_add(1, Ordering::SeqCst) == 0 {
        return Err(HandlerError::retry_after(secs(1), "one more time"));
    }
    Ok(())
}

async fn a_suspect_among_others(db: TestDb, broker: Broker) {
    let registry = || Registry::new().on(subscribe("guests.dine", dine).concurrency(4));
    broker.register(&registry()).await.unwrap();
    let mut tx = broker.db().begin().await.unwrap();
    tx.publish(Fed { n: SUSPECT }).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = broker.db().begin().await.unwrap();
    // The leftovers of two dead processes.
    sqlx::query("UPDATE termitary_deliveries SET state = -1, crashes = 2, fence = 2")
        .execute(&mut *tx)
        .await
        .unwrap();
    for n in 1..200 {
        tx.publish(Fed { n }).await.unwrap();
    }
    tx.commit().await.unwrap();
    let table = Table::default();
    let worker = TestWorker::start(broker.clone(), registry(), table.clone()).await;
    worker.settle().await;
    while table.0.suspected.load(Ordering::SeqCst) < 2 {
        worker.advance(secs(1)).await;
    }
    assert_eq!(worker.status().await.subscriptions[0].done, 200);
    assert_eq!(
        table.0.served.load(Ordering::SeqCst),
        201,
        "one was retried"
    );
    assert_eq!(table.0.beside.load(Ordering::SeqCst), 0, "both times alone");
    let crashes: i64 =
        sqlx::query_scalar("SELECT CAST(SUM(crashes) AS BIGINT) FROM termitary_deliveries")
            .fetch_one(&mut *db.db().read().await.unwrap())
            .await
            .unwrap();
    assert_eq!(crashes, 2, "the pause cost nobody a lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_runs_alone_and_so_do_its_retries_on_sqlite() {
    let db = TestDb::open().await;
    let broker = Broker::sql(db.db().clone());
    a_suspect_among_others(db, broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_runs_alone_and_so_do_its_retries_on_redis() {
    let server = TestRedis::start();
    let db = TestDb::open().await;
    let config = server.config();
    let broker = Broker::redis(db.db().clone(), config).unwrap();
    a_suspect_among_others(db, broker).await;
}
