//! Futures that are dropped half-way leave no transaction open, and no transaction half.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use crate::world::{World, eventually, make, told};

const OPEN: &str = "SELECT pid::bigint FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' OR (state = 'active' AND pid <> pg_backend_pid()
      AND backend_type = 'client backend')";

/// A moment that is over at once, or soon.
fn moment(n: u64) -> Duration {
    Duration::from_micros((n % 10) * 150)
}

async fn assert_none_is_open(world: &World) {
    eventually("no transaction is open", async || {
        world.numbers(OPEN).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_begin_leaves_no_transaction_open() {
    let world = World::new(0).await;
    for n in 0..400 {
        drop(timeout(moment(n), world.db().begin()).await);
        drop(timeout(moment(n), world.db().read()).await);
    }
    assert_none_is_open(&world).await;
    // Every connection of the pool is clean.
    let mut all = Vec::new();
    for n in 0..16 {
        let mut tx = world.db().begin().await.unwrap();
        sqlx::query("INSERT INTO made (n) VALUES ($1)")
            .bind(n)
            .execute(&mut *tx)
            .await
            .unwrap();
        all.push(tx);
    }
    assert_eq!(world.numbers("SELECT n FROM made").await, [0; 0]);
    for tx in all {
        tx.commit().await.unwrap();
    }
    assert_eq!(world.numbers("SELECT n FROM made").await.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_publisher_commits_everything_or_nothing() {
    let mut world = World::new(1).await;
    for n in 0..300 {
        drop(timeout(moment(n as u64) * 3, make(world.db(), n)).await);
    }
    eventually("no transaction is open", async || {
        let idle =
            "SELECT pid::bigint FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'
            AND now() - state_change > interval '1 s'";
        world.numbers(idle).await.is_empty()
    })
    .await;
    world.finishes(&BTreeSet::new()).await;
    let made = world.numbers("SELECT n FROM made ORDER BY n").await;
    assert_eq!(world.effects().await, made, "no event without its row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_the_server_gave_up_is_no_commit() {
    let world = World::new(0).await;
    let insert = "INSERT INTO made (n) VALUES (1)";
    let fails = "INSERT INTO made (n) VALUES (1 / (SELECT 0))";
    let sleeps = "SELECT pg_sleep(30)";

    // An error that the caller overlooked.
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    assert!(sqlx::query(fails).execute(&mut *tx).await.is_err());
    let refused = tx.commit().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    assert!(told(&refused).contains("aborted"), "{refused:?}");

    // The same on sqlx's own connection, and in rows.
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    let lent = tx.postgres().unwrap();
    assert!(sqlx::query(fails).execute(lent).await.is_err());
    assert!(tx.commit().await.is_err());
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    assert!(sqlx::query(fails).fetch_all(&mut *tx).await.is_err());
    assert!(tx.commit().await.is_err());

    // A statement that nobody waited for, and that the server ended.
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    sqlx::query("SET LOCAL statement_timeout = '300ms'")
        .execute(&mut *tx)
        .await
        .unwrap();
    let waited = timeout(
        Duration::from_millis(50),
        sqlx::query(sleeps).execute(&mut *tx),
    );
    assert!(waited.await.is_err());
    assert!(tx.commit().await.is_err());
    assert_eq!(world.numbers("SELECT n FROM made").await, [0; 0]);

    // An error that a savepoint took back is no reason.
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    {
        use sqlx::Connection as _;
        let mut savepoint = tx.begin().await.unwrap();
        assert!(sqlx::query(fails).execute(&mut *savepoint).await.is_err());
        savepoint.rollback().await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(world.numbers("SELECT n FROM made").await, [1]);
}
