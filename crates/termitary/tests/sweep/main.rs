//! The crash-point sweep: a process dies, or stands still, at each named place
//! in an event's life; another one goes on; then the books are checked.
#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
mod check;
#[cfg(feature = "planted-bugs")]
mod planted;
#[path = "../support/processes.rs"]
mod processes;
mod script;
mod stage;

use futures_util::StreamExt;
use termitary::fault::POINTS;

use case::{Case, Fault};
use stage::Stage;

/// Number of cases at once; most of the time each of them waits.
const AT_ONCE: usize = 4;

/// Not a test by itself: a process of the cases below.
#[test]
fn a_process() {
    let Some(place) = script::Place::of_this_process() else {
        return;
    };
    processes::end_with_parent();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(script::play(place));
    std::process::exit(0);
}

/// The time at which a place strikes; by hand, `TERMITARY_SWEEP_NTH=3` for the third.
fn nth() -> u32 {
    let nth = std::env::var("TERMITARY_SWEEP_NTH");
    nth.map_or(1, |nth| nth.parse().unwrap())
}

async fn sweep(mode: &'static str, fault: Fault) {
    // By hand: `TERMITARY_SWEEP=relay` sweeps some of the places.
    let only = std::env::var("TERMITARY_SWEEP").unwrap_or_default();
    let points = POINTS
        .iter()
        .filter(|point| point.modes.contains(&mode) && point.name.starts_with(&only));
    let cases = points.map(|point| async move {
        let case = Case::new(point.name, mode, fault).nth(nth());
        let wrong = tokio::spawn(case.play()).await.unwrap();
        (point, wrong)
    });
    let ended: Vec<_> = futures_util::stream::iter(cases)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert!(!ended.is_empty(), "no such place");
    let wrong: Vec<_> = ended
        .iter()
        .filter(|(_, wrong)| !wrong.is_empty())
        .map(|(point, wrong)| format!("{} ({}): {}", point.name, point.at, wrong.join("; ")))
        .collect();
    assert!(wrong.is_empty(), "{mode}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_anywhere_loses_and_doubles_nothing_on_sqlite() {
    sweep("sqlite", Fault::Death).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_anywhere_loses_and_doubles_nothing_on_redis() {
    sweep("redis", Fault::Death).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_sleeps_anywhere_and_wakes_loses_and_doubles_nothing_on_sqlite() {
    sweep("sqlite", Fault::Sleep).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_sleeps_anywhere_and_wakes_loses_and_doubles_nothing_on_redis() {
    sweep("redis", Fault::Sleep).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: some cases leave a delivery unfinished"]
async fn a_process_that_dies_anywhere_loses_and_doubles_nothing_on_postgres() {
    sweep("postgres", Fault::Death).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: some cases leave a delivery unfinished"]
async fn a_process_that_dies_anywhere_loses_and_doubles_nothing_on_postgres_and_redis() {
    sweep("postgres_and_redis", Fault::Death).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: some cases leave a delivery unfinished"]
async fn a_process_that_sleeps_anywhere_and_wakes_loses_and_doubles_nothing_on_postgres() {
    sweep("postgres", Fault::Sleep).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: some cases leave a delivery unfinished"]
async fn a_process_that_sleeps_anywhere_and_wakes_loses_and_doubles_nothing_on_postgres_and_redis()
{
    sweep("postgres_and_redis", Fault::Sleep).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_without_a_death_balances_and_every_broken_book_is_seen() {
    let stage = Stage::set("sqlite").await;
    let mut life = case::start(&stage, 1, &[]);
    let ended = life.end().await;
    assert!(ended.success(), "{}", stage.tail(1));
    check::sees_what_is_broken(&stage).await;
}
