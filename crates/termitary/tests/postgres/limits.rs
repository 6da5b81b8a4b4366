//! The server ends what takes too long, accepts no writes for a while, or has no connection left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use termitary::prelude::*;

use crate::world::{World, broker, eventually, make, registry, told};

/// Somebody locks the tables of deliveries and events for this time.
const LOCKED: Duration = Duration::from_millis(1500);

async fn statements_that_are_ended(setting: &str, says: &str) {
    let mut world = World::new(0).await;
    world
        .write(&format!("ALTER ROLE postgres SET {setting} = '100ms'"))
        .await;
    let limited = broker(&world.url).await;
    world.add(limited.clone(), registry()).await;
    make(limited.db(), 1).await.unwrap();
    eventually("it works", async || world.effects().await == [1]).await;

    let mut operator = world.operator().await;
    sqlx::raw_sql(
        "SET statement_timeout = 0; SET lock_timeout = 0; BEGIN;
         LOCK TABLE termitary.termitary_deliveries, termitary.termitary_events",
    )
    .execute(&mut operator)
    .await
    .unwrap();
    let began = Instant::now();
    while began.elapsed() < LOCKED {
        let refused = make(limited.db(), 2).await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(told(&refused).contains(says), "{refused:?}");
        let refused = limited.bus().publish(crate::world::Made { n: 3 }).await;
        let refused = refused.unwrap_err();
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(told(&refused).contains(says), "{refused:?}");
    }
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut operator)
        .await
        .unwrap();
    make(limited.db(), 4).await.unwrap();
    world.finishes(&BTreeSet::from([1, 4])).await;
    assert_eq!(world.effects().await, [1, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_timeout_is_named_and_work_goes_on_after_it() {
    statements_that_are_ended("statement_timeout", "statement timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_timeout_is_named_and_work_goes_on_after_it() {
    statements_that_are_ended("lock_timeout", "lock timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_named_and_work_goes_on_when_it_takes_writes_again() {
    let mut world = World::new(1).await;
    make(world.db(), 1).await.unwrap();
    eventually("it works", async || world.effects().await == [1]).await;
    set_read_only(&world, "on").await;
    eventually("publishers are refused", async || {
        let Err(refused) = make(world.db(), 2).await else {
            return false;
        };
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(told(&refused).contains("read-only"), "{refused:?}");
        true
    })
    .await;
    // Loops meet it, too.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let refused = make(world.db(), 3).await.unwrap_err();
    assert!(told(&refused).contains("read-only"), "{refused:?}");
    world.broker.inspect().status().await.unwrap();
    set_read_only(&world, "off").await;
    eventually("publishers are served", async || {
        make(world.db(), 4).await.is_ok()
    })
    .await;
    world.finishes(&BTreeSet::from([1, 4])).await;
}

async fn set_read_only(world: &World, to: &str) {
    let mut operator = world.operator().await;
    for sql in [
        "SET default_transaction_read_only = off".to_owned(),
        format!("ALTER SYSTEM SET default_transaction_read_only = {to}"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut operator)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_after_the_last_connection_waits_and_is_then_told_why() {
    let mut world = World::new(1).await;
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(secs(1))
        .connect(&world.url)
        .await
        .unwrap();
    let db = Db::postgres(pool).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(db.begin().await.unwrap());
    }
    let began = Instant::now();
    let refused = db.begin().await.unwrap_err();
    assert!(began.elapsed() >= secs(1), "it waits");
    assert!(refused.is_unavailable(), "{refused:?}");
    let text = refused.to_string();
    for part in ["all 16 connections", "127.0.0.1", "1 s"] {
        assert!(text.contains(part), "{text}");
    }
    // Work beside it goes on.
    make(world.db(), 1).await.unwrap();
    eventually("it works", async || world.effects().await == [1]).await;

    let waits = tokio::spawn({
        let db = db.clone();
        async move { make(&db, 2).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    held.pop();
    waits.await.unwrap().unwrap();

    // A server that is away is another reason.
    drop(held);
    tokio::task::block_in_place(|| world.server.kill());
    let refused = db.begin().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    assert!(
        refused.to_string().contains("does not respond"),
        "{refused:?}"
    );
    tokio::task::block_in_place(|| world.server.restart());
    world.finishes(&BTreeSet::from([1, 2])).await;
}
