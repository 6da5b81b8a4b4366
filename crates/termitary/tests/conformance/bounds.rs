//! Values that somebody gets wrong: each has a bound that its error names.

#![expect(clippy::panic, reason = "a handler of these tests panics")]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::stand::Stand;
use crate::{Ping, Seen};

const ENDLESS: usize = 12_000_000;

async fn complain(_: Ping) -> HandlerResult {
    Err("ä".repeat(ENDLESS / 2).into())
}

async fn scream(_: Ping) -> HandlerResult {
    std::panic::panic_any("ä".repeat(ENDLESS / 2))
}

pub(crate) async fn an_errors_text_is_cut_with_a_note_of_its_length(stand: Stand) {
    let broker = stand.broker();
    let registry = Registry::<()>::new()
        .on(subscribe("a", complain).retry(Retry::never()))
        .on(subscribe("b", scream).retry(Retry::never()));
    let mut worker = TestWorker::start(broker.clone(), registry, ()).await;
    worker.allow_leftovers();
    stand.commit(Ping { n: 1 }).await;
    worker.settle().await;
    let letters = broker.inspect().letters(&LetterFilter::default(), 9).await;
    let letters = letters.unwrap();
    assert_eq!(letters.len(), 2);
    for letter in letters {
        let error = letter.error;
        assert!(error.len() < 5_000, "{} bytes", error.len());
        assert!(error.contains("ää… (cut here: 120000"), "{error}");
    }
}

/// Is never found short of time.
async fn not_now(_: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add("ran");
    match seen.len() {
        1..4 => Err(HandlerError::snooze(Duration::ZERO)),
        _ => Ok(()),
    }
}

pub(crate) async fn a_snooze_for_no_time_waits_for_a_second(stand: Stand) {
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("a", not_now));
    let worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    stand.commit(Ping { n: 1 }).await;
    for runs in 1..=4 {
        worker.settle().await;
        assert_eq!(seen.len(), runs);
        worker.advance(secs(1)).await;
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    note: Option<String>,
    celsius: f64,
    within: Vec<Measured>,
}

impl Event for Measured {
    const NAME: &'static str = "room.measured";
}

fn measured(celsius: f64) -> Measured {
    Measured {
        note: None,
        celsius,
        within: Vec::new(),
    }
}

fn nested(levels: usize) -> Measured {
    (1..levels).fold(measured(20.0), |inner, _| Measured {
        within: vec![inner],
        ..measured(20.0)
    })
}

async fn measure(event: Measured, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.celsius);
    Ok(())
}

/// The error of each way to publish this event.
async fn refused(stand: &Stand, event: &Measured) -> String {
    let bus = stand.broker().bus();
    let mut tx = stand.db().begin().await.unwrap();
    let mut errors = vec![
        tx.publish(event.clone()).await.unwrap_err(),
        bus.publish(event.clone()).await.unwrap_err(),
        bus.publish_all([measured(1.0), event.clone()])
            .await
            .unwrap_err(),
        bus.broadcast(event.clone()).await.unwrap_err(),
    ];
    tx.rollback().await.unwrap();
    assert!(errors.iter().all(termitary::Error::is_invalid));
    format!("{:?}", errors.remove(0))
}

pub(crate) async fn a_payload_that_no_reader_can_decode_is_refused_at_publish(stand: Stand) {
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("a", measure));
    let worker = TestWorker::start(stand.broker(), registry, seen.clone()).await;
    let not_a_number = refused(&stand, &measured(f64::NAN)).await;
    assert!(not_a_number.contains("NaN in `celsius`"), "{not_a_number}");
    // Two levels of JSON each, and the last list is one more.
    let too_deep = refused(&stand, &nested(64)).await;
    assert!(too_deep.contains("deeper than the 127"), "{too_deep}");
    let bus = stand.broker().bus();
    bus.publish(nested(63)).await.unwrap();
    let json = serde_json::to_string(&nested(64)).unwrap();
    for json in [&*json, r#"{"celsius":1e999}"#, r#"{"note":"\ud800"}"#] {
        let error = bus.publish_json("room.measured", json).await.unwrap_err();
        assert!(error.is_invalid());
    }
    worker.settle().await;
    assert_eq!(seen.all(), ["20"], "and nothing is parked");
}

pub(crate) async fn a_key_of_more_than_a_kibibyte_is_refused_at_publish(stand: Stand) {
    let bus = stand.broker().bus();
    let longest = Ping { n: 1 }.keyed("k".repeat(1_024));
    bus.publish(longest).await.unwrap();
    let longer = Ping { n: 1 }.keyed("k".repeat(1_048_576));
    let error = bus.publish(longer).await.unwrap_err();
    assert!(error.is_invalid());
    let text = error.to_string();
    assert!(
        text.contains("the key of ping.sent has 1048576 bytes"),
        "{text}"
    );
}
