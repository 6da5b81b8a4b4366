//! Entries that other programs put on a stream.

use termitary::inspect::{LetterFilter, LetterState};

use crate::world::{World, eventually};

const MAIN: &str = "termitary:{things.made}:events";

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_entry_is_parked_alone() {
    let world = World::new(&["first", "second"]).await;
    world.redis(&["XADD", MAIN, "*", "d", "{\"n\":1}"]).await;
    world.redis(&["XADD", MAIN, "*", "x", "secret"]).await;
    world.redis(&["XADD", MAIN, "*", "d", "{\"n\":"]).await;
    world.redis(&["XADD", MAIN, "*", "d", "{\"n\":2}"]).await;
    let _worker = world.worker().await;
    eventually("its neighbours run", async || {
        world.seen.total("first").0 == 2 && world.seen.total("second").0 == 2
    })
    .await;
    eventually("both are parked, for each", async || {
        world.of("first").await.parked == 2 && world.of("second").await.parked == 2
    })
    .await;
    let letters = world
        .broker
        .inspect()
        .letters(&LetterFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 4);
    for letter in letters {
        assert_eq!(
            (letter.state, &*letter.reason),
            (LetterState::Parked, "undecodable")
        );
        assert!(!letter.error.contains("secret"), "{}", letter.error);
    }
    eventually("nothing is left", async || {
        world.of("first").await.leased == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_another_shape_is_parked() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world
        .broker
        .bus()
        .publish_json("things.made", "{\"n\":\"many\"}")
        .await
        .unwrap();
    eventually("it is parked", async || world.of("first").await.parked == 1).await;
    eventually("its entry ends", async || {
        world.of("first").await.leased == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_event_is_an_event() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    let event =
        r#"{"specversion":"1.0","id":"7","source":"/shop","type":"things.made","data":{"n":7}}"#;
    world.redis(&["XADD", MAIN, "*", "ce", event]).await;
    eventually("it runs", async || world.seen.runs("first", 7) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_another_ledger_is_dropped() {
    let world = World::new(&["first"]).await;
    let _worker = world.worker().await;
    world
        .redis(&["XADD", MAIN, "*", "d", "{\"n\":1}", "l", "4711"])
        .await;
    world.redis(&["XADD", MAIN, "*", "d", "{\"n\":2}"]).await;
    eventually("its neighbour runs", async || {
        world.seen.runs("first", 2) == 1
    })
    .await;
    assert_eq!(world.seen.runs("first", 1), 0);
    eventually("nothing is left", async || {
        world.of("first").await.leased == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_another_ledger_does_not_run_in_the_place_of_ours() {
    let world = World::new(&["slow"]).await;
    let _worker = world.worker().await;
    world.commit(1..2).await;
    eventually("ours runs", async || world.of("slow").await.leased == 1).await;
    // The same row number and fence, but another event.
    let id = "01a20af1-4926-7341-b6f8-3b7b923e0564";
    world
        .redis(&["XADD", MAIN, "*", "i", id, "d", "{\"n\":2}", "l", "1"])
        .await;
    world.redis(&["XADD", MAIN, "*", "d", "{\"n\":3}"]).await;
    eventually("its neighbour starts while ours runs", async || {
        world.seen.runs("slow.started", 3) == 1
    })
    .await;
    world.seen.open_gate();
    eventually("its neighbour ends", async || {
        world.seen.runs("slow", 3) == 1
    })
    .await;
    eventually("ours is done", async || world.of("slow").await.leased == 0).await;
    assert_eq!(
        (world.seen.runs("slow", 1), world.seen.runs("slow", 2)),
        (1, 0)
    );
}
