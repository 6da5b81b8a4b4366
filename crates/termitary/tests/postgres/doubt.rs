//! A COMMIT without a reply: the outcome is unknown to its process, and the same for all of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use termitary::prelude::*;

use crate::proxy::{CUT_AFTER, CUT_BEFORE, Proxy};
use crate::world::{Made, World, broker, note, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_without_a_reply_to_its_commit_is_told_so_and_finds_all_or_nothing() {
    let mut world = World::new(1).await;
    let proxy = Proxy::start(world.server.port()).await;
    let through = broker(&proxy.url()).await;
    let cases = [(1, CUT_BEFORE, vec![]), (2, CUT_AFTER, vec![2])];
    for (n, cut, made) in cases {
        let mut tx = through.db().begin().await.unwrap();
        sqlx::query("INSERT INTO made (n) VALUES ($1)")
            .bind(n)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.publish(Made { n }).await.unwrap();
        sqlx::raw_sql(cut).execute(&mut *tx).await.unwrap();
        let unknown = tx.commit().await.unwrap_err();
        assert!(unknown.is_unavailable(), "{unknown:?}");
        assert_eq!(world.numbers("SELECT n FROM made").await, made);
    }
    assert_eq!(proxy.cuts(), 2);
    world.finishes(&BTreeSet::from([2])).await;
    assert_eq!(world.effects().await, [2]);
}

static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Its first commits lose their replies.
async fn cut(event: Made, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    note(&mut tx, event.n).await?;
    let cut = match RUNS.fetch_add(1, Ordering::SeqCst) {
        run if run >= 20 => None,
        run if run % 2 == 0 => Some(CUT_BEFORE),
        _ => Some(CUT_AFTER),
    };
    if let Some(cut) = cut {
        sqlx::raw_sql(cut).execute(&mut **tx).await?;
    }
    tx.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_a_reply_to_its_commit_has_its_effect_once() {
    let mut world = World::new(0).await;
    let proxy = Proxy::start(world.server.port()).await;
    let through = broker(&proxy.url()).await;
    let cuts = Registry::new().on(subscribe("effect", cut).retry(soon()));
    world.add(through, cuts).await;
    let all: BTreeSet<i64> = (0..30).collect();
    for n in &all {
        world.broker.bus().publish(Made { n: *n }).await.unwrap();
    }
    world.finishes(&all).await;
    let effects: Vec<_> = all.iter().copied().collect();
    assert_eq!(world.effects().await, effects);
    // An attempt that ends before its COMMIT leaves its cut unused: so on a busy machine.
    let (cuts, runs) = (proxy.cuts(), RUNS.load(Ordering::SeqCst));
    assert!((10..=20).contains(&cuts), "{cuts} connections were cut");
    assert!(runs > all.len(), "{runs} runs: nothing was run again");
}
