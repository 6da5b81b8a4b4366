//! The server gives up a handler's transaction for the sake of another: that is an attempt.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use termitary::prelude::*;
use tokio::sync::Barrier;

use crate::world::{Made, World, broker, note, soon};

static BEGUN: AtomicUsize = AtomicUsize::new(0);
static BOTH: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));

/// The first two meet, and each then wants the row of the other.
async fn crossing(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    let meets = BEGUN.fetch_add(1, Ordering::SeqCst) < 2;
    note(&mut tx, event.n).await?;
    let rows = if event.n == 1 { [1, 2] } else { [2, 1] };
    for (row, first) in rows.into_iter().zip([true, false]) {
        sqlx::query("UPDATE shelf SET used = used + 1 WHERE id = $1")
            .bind(row)
            .execute(&mut **tx)
            .await?;
        if meets && first {
            BOTH.wait().await;
        }
    }
    tx.commit().await
}

const ATTEMPTS: &str =
    "SELECT attempts::bigint FROM termitary.termitary_deliveries ORDER BY attempts";
const CRASHES: &str =
    "SELECT crashes::bigint FROM termitary.termitary_deliveries WHERE crashes > 0";

async fn run(world: &mut World, registry: Registry<()>, all: &[i64]) {
    let own = broker(&world.url).await;
    world.add(own, registry).await;
    for n in all {
        world.broker.bus().publish(Made { n: *n }).await.unwrap();
    }
    world
        .finishes(&all.iter().copied().collect::<BTreeSet<_>>())
        .await;
    assert_eq!(world.effects().await, all);
    assert_eq!(world.numbers(CRASHES).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_costs_one_of_the_two_an_attempt() {
    let mut world = World::new(0).await;
    world
        .write("CREATE TABLE shelf AS SELECT id::bigint, 0::bigint AS used FROM generate_series(1, 2) id")
        .await;
    let registry = Registry::new().on(subscribe("effect", crossing).retry(soon()));
    run(&mut world, registry, &[1, 2]).await;
    assert_eq!(world.numbers(ATTEMPTS).await, [0, 1]);
    assert_eq!(world.numbers("SELECT used FROM shelf").await, [2, 2]);
}

async fn effect(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    note(&mut tx, event.n).await?;
    tx.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_to_serialise_at_the_commit_costs_an_attempt() {
    let mut world = World::new(0).await;
    world
        .write(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('tries') = 1 THEN
                     RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effects
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let registry = Registry::new().on(subscribe("effect", effect).retry(soon()));
    run(&mut world, registry, &[1]).await;
    assert_eq!(world.numbers(ATTEMPTS).await, [1]);
}

/// Sees a row change between its first look and its own change.
async fn repeatable(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .execute(&mut **tx)
        .await?;
    let _: i64 = sqlx::query_scalar("SELECT used FROM shelf WHERE id = 1")
        .fetch_one(&mut **tx)
        .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    sqlx::query("UPDATE shelf SET used = used + 1 WHERE id = 1")
        .execute(&mut **tx)
        .await?;
    note(&mut tx, event.n).await?;
    tx.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_cannot_be_serialised_are_retried_until_all_are_done() {
    let mut world = World::new(0).await;
    world
        .write("CREATE TABLE shelf AS SELECT 1::bigint AS id, 0::bigint AS used")
        .await;
    let registry = Registry::new().on(subscribe("effect", repeatable).concurrency(4).retry(soon()));
    run(&mut world, registry, &[1, 2, 3, 4, 5, 6]).await;
    assert_eq!(world.numbers("SELECT used FROM shelf").await, [6]);
}
