//! Plain pub/sub in and out.

use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use termitary::broker::Bridge;
use termitary::event::MAX_DATA_BYTES;
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::{TestRedis, TestWorker};

use crate::outages::Log;
use crate::world::{Made, Seen, World, eventually, pause};

async fn world(bridge: Bridge) -> World {
    World::on(TestRedis::start(), &["first"], |config| {
        config.bridge(bridge)
    })
    .await
}

/// Sends until the bridge listens; the first message that it hears counts.
async fn send(world: &World, channel: &str, message: &str) {
    eventually("the bridge listens", async || {
        world.number(&["PUBLISH", channel, message]).await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_message_becomes_one_event_however_many_workers_listen() {
    let world = world(Bridge::In).await;
    let config = || world.config().bridge(Bridge::In);
    let mut one = world.worker_with(config()).await;
    let _two = world.worker_with(config()).await;
    send(&world, "things.made", "{\"n\":1}").await;
    eventually("it is done", async || world.of("first").await.done == 1).await;
    pause(200).await;
    assert_eq!(
        (world.seen.total("first"), world.status().await.events),
        ((1, 1), 1)
    );
    // The holder, or the other, stops: the remaining worker takes the bridge.
    one.stop().await;
    pause(1500).await;
    send(&world, "things.made", "{\"n\":2}").await;
    eventually("it is done", async || world.of("first").await.done == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_parked() {
    let world = world(Bridge::In).await;
    let _worker = world.worker_with(world.config().bridge(Bridge::In)).await;
    send(&world, "things.made", "{oops").await;
    send(&world, "things.made", "[1]").await;
    send(&world, "things.unheard", "{}").await;
    send(&world, "things.made", "{\"n\":1}").await;
    eventually("the good one is done", async || {
        world.of("first").await.done == 1
    })
    .await;
    let letters = world
        .broker
        .inspect()
        .letters(&LetterFilter::default(), 10)
        .await
        .unwrap();
    let mut reasons: Vec<_> = letters.iter().map(|letter| &*letter.reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["malformed", "malformed", "unknown-event"]);
    assert!(
        letters
            .iter()
            .any(|letter| letter.event.data.get() == "\"{oops\"")
    );
    assert_eq!(
        world
            .broker
            .inspect()
            .replay(&LetterFilter::default(), "test")
            .await
            .unwrap(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_out_raw_and_do_not_come_back_in() {
    let world = world(Bridge::Both).await;
    let _worker = world.worker_with(world.config().bridge(Bridge::Both)).await;
    send(&world, "things.made", "{\"n\":0}").await;
    eventually("the bridge works", async || {
        world.of("first").await.done == 1
    })
    .await;

    let client = redis::Client::open(("127.0.0.1", world.server.port())).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("things.made").await.unwrap();
    let mut heard = pubsub.into_on_message();
    world.commit(1..4).await;
    world
        .broker
        .bus()
        .publish_all([Made { n: 4 }, Made { n: 4 }])
        .await
        .unwrap();
    let mut messages = Vec::new();
    for _ in 0..5 {
        let message = tokio::time::timeout(Duration::from_secs(5), heard.next())
            .await
            .unwrap()
            .unwrap();
        messages.push(String::from_utf8(message.get_payload_bytes().to_vec()).unwrap());
    }
    messages.sort_unstable();
    assert_eq!(
        messages,
        [
            "{\"n\":1}",
            "{\"n\":2}",
            "{\"n\":3}",
            "{\"n\":4}",
            "{\"n\":4}"
        ]
    );
    eventually("all is done", async || world.of("first").await.done == 6).await;
    pause(300).await;
    assert_eq!(
        world.seen.total("first"),
        (5, 6),
        "nothing came back as another event"
    );
    // Another program that says the same after us is another event.
    send(&world, "things.made", "{\"n\":4}").await;
    eventually("it is an event", async || world.of("first").await.done == 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bridge_plain_messages_mean_nothing() {
    let world = world(Bridge::Off).await;
    let _worker = world.worker().await;
    pause(300).await;
    assert_eq!(
        world.number(&["PUBLISH", "things.made", "{\"n\":1}"]).await,
        0
    );
}

/// Renamed since; its programs still say the old name.
#[derive(Serialize, Deserialize)]
struct Built {
    n: u32,
}

impl Event for Built {
    const NAME: &'static str = "things.built";
    const ALIASES: &'static [&'static str] = &["things.assembled"];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_on_the_channel_of_an_alias_is_that_event() {
    async fn note(event: Built, State(seen): State<Seen>) -> HandlerResult {
        seen.note("built", event.n);
        Ok(())
    }
    let world = world(Bridge::In).await;
    let config = world.config().bridge(Bridge::In);
    let broker = world.broker_with(config);
    let registry = Registry::new().on(subscribe("built", note));
    let mut worker = TestWorker::start(broker, registry, world.seen.clone()).await;
    worker.allow_leftovers();
    send(&world, "things.assembled", "{\"n\":1}").await;
    eventually("it is handled", async || {
        world.seen.total("built") == (1, 1)
    })
    .await;
    assert_eq!(world.of("built").await.parked, 0);
}

/// Nobody here subscribes to it.
#[derive(Serialize, Deserialize)]
struct Sold {
    n: u32,
}

impl Event for Sold {
    const NAME: &'static str = "things.sold";
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_here_subscribes_to_goes_out_once_too() {
    let world = world(Bridge::Out).await;
    let client = redis::Client::open(("127.0.0.1", world.server.port())).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("things.sold").await.unwrap();
    let mut heard = pubsub.into_on_message();
    let config = || world.config().bridge(Bridge::Out);
    let _workers = [
        world.worker_with(config()).await,
        world.worker_with(config()).await,
    ];
    for n in 0..20 {
        let mut tx = world.db.db().begin().await.unwrap();
        tx.publish(Sold { n }).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut numbers = Vec::new();
    for _ in 0..20 {
        let next = tokio::time::timeout(Duration::from_secs(20), heard.next());
        let message = next.await.unwrap().unwrap();
        let sold: Sold = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        numbers.push(sold.n);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    let more = tokio::time::timeout(Duration::from_millis(300), heard.next()).await;
    assert!(more.is_err(), "{:?}", more.unwrap());
}

const PUBLISHED: usize = 100_000;

/// On one thread, so that its log is caught.
#[tokio::test]
async fn a_flood_of_what_is_no_event_is_kept_and_logged_in_a_few_lines() {
    let (log, _guard) = Log::catch();
    let world = world(Bridge::In).await;
    let _worker = world.worker_with(world.config().bridge(Bridge::In)).await;
    send(&world, "things.made", "{\"n\":1}").await;
    let client = redis::Client::open(("127.0.0.1", world.server.port())).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    for chunk in 0..PUBLISHED / 1_000 {
        let mut pipe = redis::pipe();
        for n in 0..1_000 {
            let text = format!("{{oops {chunk} {n}");
            pipe.cmd("PUBLISH").arg("things.made").arg(text).ignore();
        }
        let _: () = pipe.query_async(&mut conn).await.unwrap();
    }
    let patience = std::time::Instant::now() + Duration::from_mins(2);
    let parked = async || {
        let count = "SELECT COUNT(*) FROM termitary_deliveries WHERE state = 4";
        let count: i64 = sqlx::query_scalar(count)
            .fetch_one(&mut *world.db.db().read().await.unwrap())
            .await
            .unwrap();
        count as usize
    };
    while parked().await < PUBLISHED {
        assert!(std::time::Instant::now() < patience, "{}", log.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let text = log.text();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("plain pub/sub"))
        .collect();
    assert!((1..=3).contains(&lines.len()), "{lines:?}");
    assert!(
        lines[0].contains("number=1 ") && !text.contains("oops"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_message_over_the_limit_is_parked_with_its_beginning_and_its_size() {
    let world = world(Bridge::In).await;
    let _worker = world.worker_with(world.config().bridge(Bridge::In)).await;
    send(&world, "things.made", "{\"n\":1}").await;
    let sizes = [MAX_DATA_BYTES + 1, 1024 * 1024, 16 * 1024 * 1024];
    for bytes in sizes {
        let text = "x".repeat(bytes);
        world.redis(&["PUBLISH", "things.made", &text]).await;
        let letters = async || {
            let all = LetterFilter::default();
            world.broker.inspect().letters(&all, 10).await.unwrap()
        };
        eventually("it is parked", async || {
            let said = format!("{bytes} bytes are more");
            letters().await.iter().any(|letter| {
                letter.error.contains(&said) && letter.event.data.get().len() < 100_000
            })
        })
        .await;
    }
}

/// Close to 32 MiB, Redis ends the connection instead of sending them.
#[tokio::test]
async fn messages_that_redis_does_not_send_are_logged_once_and_the_bridge_goes_on() {
    let (log, _guard) = Log::catch();
    let world = world(Bridge::In).await;
    let _worker = world.worker_with(world.config().bridge(Bridge::In)).await;
    let text = "x".repeat(31 * 1024 * 1024);
    let told = "the connection that hears plain pub/sub ended";
    let parked = "messages of plain pub/sub are parked";
    for n in 1..4 {
        send(&world, "things.made", &format!("{{\"n\":{n}}}")).await;
        eventually("it goes on", async || world.seen.runs("first", n) == 1).await;
        world.redis(&["PUBLISH", "things.made", &text]).await;
        eventually("it is logged", async || {
            log.count(told) + log.count(parked) > 0
        })
        .await;
    }
    let lines = log.count(told) + log.count(parked);
    assert!((1..=2).contains(&lines), "{}", log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_of_another_ledger_or_under_no_name_is_not_heard() {
    let world = World::new(&["first"]).await;
    let other = termitary::testing::TestDb::open().await;
    let config = world.config().database(1);
    let theirs = Broker::redis(other.db().clone(), config).unwrap();
    let mut heard = world.broker.broadcasts().subscribe();
    let bad = r#"{"name":"things\nmade","data":"{}"}"#;
    eventually("ours is heard", async || {
        theirs.bus().broadcast(Made { n: 8 }).await.unwrap();
        world.redis(&["PUBLISH", "termitary:broadcast", bad]).await;
        world.broker.bus().broadcast(Made { n: 9 }).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), heard.recv());
        next.await.is_ok_and(|message| {
            let message = message.unwrap();
            assert_eq!(
                (&*message.name, &*message.data),
                ("things.made", "{\"n\":9}")
            );
            true
        })
    })
    .await;
}
