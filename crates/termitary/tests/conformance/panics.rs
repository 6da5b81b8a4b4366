//! User code that panics wherever the engine calls it: one attempt of one
//! delivery, never a place.
#![expect(clippy::panic, reason = "panics are what these tests are about")]

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use termitary::inspect::{Letter, LetterFilter};
use termitary::prelude::*;
use termitary::testing::TestWorker;

use crate::Seen;
use crate::stand::Stand;

const EVENTS: u32 = 50;

/// Every second one panics when it is read.
#[derive(Serialize)]
struct Bomb {
    n: u32,
}

impl Event for Bomb {
    const NAME: &'static str = "bomb.sent";
}

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            n: u32,
        }
        let Plain { n } = Plain::deserialize(deserializer)?;
        assert!(n.is_multiple_of(2), "boom");
        Ok(Self { n })
    }
}

async fn note(event: Bomb, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Ok(())
}

pub(crate) async fn a_panic_while_decoding_costs_an_attempt_and_no_place(stand: Stand) {
    let seen = Seen::default();
    let subscription = subscribe("a", note).retry(Retry::never()).concurrency(2);
    let letters = outcome(&stand, Registry::new().on(subscription), seen.clone()).await;
    assert_eq!(seen.len(), EVENTS as usize / 2);
    assert_eq!(letters.len(), EVENTS as usize / 2);
    assert_errors(&letters, "panicked: boom");
}

/// Panics when it is cloned out of the state.
struct Fragile;

impl FromRef<Seen> for Fragile {
    fn from_ref(_: &Seen) -> Self {
        panic!("fragile")
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plain {
    n: u32,
}

impl Event for Plain {
    const NAME: &'static str = "bomb.sent";
}

async fn extract(_: Plain, State(Fragile): State<Fragile>) -> HandlerResult {
    Ok(())
}

pub(crate) async fn a_panic_while_extracting_costs_an_attempt_and_no_place(stand: Stand) {
    let subscription = subscribe("a", extract).retry(Retry::never()).concurrency(2);
    let letters = outcome(&stand, Registry::new().on(subscription), Seen::default()).await;
    assert_eq!(letters.len(), EVENTS as usize);
    assert_errors(&letters, "panicked: fragile");
}

/// Panics when it is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "stepped on");
    }
}

async fn hang(_: Plain) -> HandlerResult {
    let _mine = Mine;
    std::future::pending().await
}

pub(crate) async fn a_cancelled_handler_that_panics_when_dropped_costs_an_attempt_and_no_place(
    stand: Stand,
) {
    let subscription = subscribe("a", hang)
        .retry(Retry::never())
        .timeout(Duration::from_millis(20))
        .concurrency(5);
    let letters = outcome(&stand, Registry::new().on(subscription), Seen::default()).await;
    assert_eq!(letters.len(), EVENTS as usize);
    assert_errors(&letters, "timed out after 20ms");
    assert_errors(&letters, "panicked: stepped on");
}

/// Panics when it is shown, and again when it is dropped.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("unspeakable")
    }
}

impl Drop for Unspeakable {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "unforgettable");
    }
}

impl std::error::Error for Unspeakable {}

async fn fail(_: Plain) -> HandlerResult {
    Err(Unspeakable.into())
}

pub(crate) async fn an_error_whose_text_panics_costs_an_attempt_and_no_place(stand: Stand) {
    let subscription = subscribe("a", fail).retry(Retry::never()).concurrency(2);
    let letters = outcome(&stand, Registry::new().on(subscription), Seen::default()).await;
    assert_eq!(letters.len(), EVENTS as usize);
    assert_errors(&letters, "panicked: unspeakable");
}

async fn throw(_: Plain) -> HandlerResult {
    std::panic::panic_any(Unspeakable)
}

pub(crate) async fn a_panic_whose_value_panics_costs_an_attempt_and_no_place(stand: Stand) {
    let subscription = subscribe("a", throw).retry(Retry::never()).concurrency(2);
    let letters = outcome(&stand, Registry::new().on(subscription), Seen::default()).await;
    assert_eq!(letters.len(), EVENTS as usize);
    assert_errors(&letters, "panicked: with no message");
}

/// Handles all events and returns the dead letters.
async fn outcome(stand: &Stand, registry: Registry<Seen>, seen: Seen) -> Vec<Letter> {
    let broker = stand.broker();
    let mut worker = TestWorker::start(broker.clone(), registry, seen).await;
    worker.allow_leftovers();
    let events = (0..EVENTS).map(|n| Plain { n });
    broker.bus().publish_all(events).await.unwrap();
    worker.settle().await;
    let filter = LetterFilter::default();
    let letters = broker.inspect().letters(&filter, 1_000).await;
    worker.stop().await;
    letters.unwrap()
}

fn assert_errors(letters: &[Letter], text: &str) {
    for letter in letters {
        assert!(letter.error.contains(text), "{text}: {}", letter.error);
        assert_eq!(letter.crashes, 0);
    }
}
