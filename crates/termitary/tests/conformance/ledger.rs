use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

#[derive(serde::Serialize, serde::Deserialize)]
struct Pong {
    n: u32,
}

impl Event for Pong {
    const NAME: &'static str = "pong.sent";
}

async fn answer(event: Ping, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(event.n)
        .execute(&mut *tx)
        .await?;
    tx.publish(Pong { n: event.n }).await?;
    tx.commit().await
}

async fn note(event: Pong, State(seen): State<Seen>, meta: Meta) -> HandlerResult {
    seen.add(format!("{}:{}", event.n, meta.attempt));
    Ok(())
}

async fn effects(stand: &Stand) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM effects")
        .fetch_one(&mut *stand.db().read().await.unwrap())
        .await
        .unwrap()
}

async fn with_effects(stand: &Stand) {
    stand
        .write("CREATE TABLE effects (n INTEGER NOT NULL)")
        .await;
}

pub(crate) async fn effects_new_events_and_done_commit_together(stand: Stand) {
    let seen = Seen::default();
    with_effects(&stand).await;
    let broker = stand.broker();
    let registry = Registry::new()
        .on(subscribe("answer", answer))
        .on(subscribe("note", note));
    let worker = TestWorker::start(broker.clone(), registry, seen.clone()).await;
    let ping = broker.bus().publish(Ping { n: 4 }).await.unwrap();
    worker.settle().await;
    assert_eq!(seen.all(), ["4:1"]);
    assert_eq!(effects(&stand).await, 1);
    let done: Vec<u64> = worker
        .status()
        .await
        .subscriptions
        .iter()
        .map(|s| s.done)
        .collect();
    assert_eq!(done, [1, 1]);
    let cause: uuid::Uuid =
        sqlx::query_scalar("SELECT cause FROM termitary_events WHERE name = 'pong.sent'")
            .fetch_one(&mut *stand.db().read().await.unwrap())
            .await
            .unwrap();
    assert_eq!(
        cause, ping.id,
        "an event names the event whose handler published it"
    );
}

async fn commit_then_fail(event: Ping, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(event.n)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Err("too late to matter".into())
}

pub(crate) async fn an_error_after_the_commit_cannot_undo_done(stand: Stand) {
    with_effects(&stand).await;
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("answer", commit_then_fail));
    let worker = TestWorker::start(broker.clone(), registry, ()).await;
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.advance(hours(48)).await;
    assert_eq!(effects(&stand).await, 1);
}

async fn forget_to_commit(_: Ping, ledger: Ledger) -> HandlerResult {
    let _tx = ledger.begin().await?;
    Ok(())
}

pub(crate) async fn returning_ok_with_an_open_transaction_is_an_error(stand: Stand) {
    with_effects(&stand).await;
    let broker = stand.broker();
    let registry = Registry::new().on(subscribe("answer", forget_to_commit).retry(Retry::never()));
    let mut worker = TestWorker::start(broker.clone(), registry, ()).await;
    worker.allow_leftovers();
    broker.bus().publish(Ping { n: 1 }).await.unwrap();
    worker.settle().await;
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 9)
        .await
        .unwrap();
    assert!(
        letters[0].error.contains("open transaction"),
        "{}",
        letters[0].error
    );
}

#[derive(Clone)]
struct Robbed {
    db: Db,
    seen: Seen,
}

async fn stall(event: Ping, ledger: Ledger, State(robbed): State<Robbed>) -> HandlerResult {
    // Meanwhile somebody else takes the delivery over.
    let mut thief = robbed.db.begin().await?;
    sqlx::query("UPDATE termitary_deliveries SET fence = fence + 1 WHERE state = 1")
        .execute(&mut *thief)
        .await?;
    thief.commit().await?;
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(event.n)
        .execute(&mut *tx)
        .await?;
    let committed = tx.commit().await;
    robbed.seen.add(committed.is_ok());
    committed
}

pub(crate) async fn a_worker_that_lost_its_lease_cannot_commit(stand: Stand) {
    with_effects(&stand).await;
    let seen = Seen::default();
    let state = Robbed {
        db: stand.db().clone(),
        seen: seen.clone(),
    };
    let registry = Registry::new().on(subscribe("answer", stall));
    let mut worker = TestWorker::start(stand.broker(), registry, state).await;
    worker.allow_leftovers();
    stand.commit(Ping { n: 1 }).await;
    eventually("it tries", async || seen.len() == 1).await;
    worker.stop().await;
    assert_eq!(seen.all(), ["false"]);
    assert_eq!(effects(&stand).await, 0, "rolled back");
    let state: i64 = sqlx::query_scalar("SELECT state FROM termitary_deliveries")
        .fetch_one(&mut *stand.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(state, 1, "still the other worker's");
}

/// Is robbed of its delivery while it runs, then ends in the way that the
/// event names.
async fn end_robbed(event: Ping, State(robbed): State<Robbed>, meta: Meta) -> HandlerResult {
    let mut thief = robbed.db.begin().await?;
    sqlx::query(
        "UPDATE termitary_deliveries SET fence = fence + 1
         WHERE event = (SELECT seq FROM termitary_events WHERE id = $1)",
    )
    .bind(meta.event_id)
    .execute(&mut *thief)
    .await?;
    thief.commit().await?;
    robbed.seen.add(event.n);
    assert!(event.n < 4, "the last one panics on purpose");
    match event.n {
        1 => Err("not yet".into()),
        2 => Err(HandlerError::permanent("never")),
        3 => Err(HandlerError::snooze(secs(1))),
        _ => Ok(()),
    }
}

pub(crate) async fn a_worker_that_lost_its_lease_changes_nothing_however_it_ends(stand: Stand) {
    let seen = Seen::default();
    let state = Robbed {
        db: stand.db().clone(),
        seen: seen.clone(),
    };
    let registry = Registry::new().on(subscribe("answer", end_robbed));
    let mut worker = TestWorker::start(stand.broker(), registry, state).await;
    worker.allow_leftovers();
    for n in 0..5 {
        stand.commit(Ping { n }).await;
    }
    eventually("all end", async || seen.len() == 5).await;
    // Finished attempts are settled before the worker is gone.
    worker.stop().await;
    let rows: Vec<(i64, i64, i64, Option<String>)> =
        sqlx::query_as("SELECT state, fence, attempts, reason FROM termitary_deliveries")
            .fetch_all(&mut *stand.db().read().await.unwrap())
            .await
            .unwrap();
    assert_eq!(rows, vec![(1, 2, 0, None); 5], "all are the other's");
    let status = stand.broker().inspect().status().await.unwrap();
    assert_eq!(status.subscriptions[0].done, 0);
}
