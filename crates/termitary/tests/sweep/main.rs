//! The crash-point sweep: a process dies at each named place in an event's
//! life; another one goes on; then the books are checked.
#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
#[path = "../support/processes.rs"]
mod processes;
mod script;
mod stage;

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use futures_util::StreamExt;
use termitary::fault::{POINTS, Point};

use stage::Stage;

/// How many cases run at once; most of the time each of them waits.
const AT_ONCE: usize = 4;
const SIGABRT: i32 = 6;

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

/// Runs the script in a process of its own, to its end or to the place where it dies.
async fn run(stage: &Stage, life: u32, failpoint: Option<&str>) -> ExitStatus {
    let log = std::fs::File::create(stage.log(life)).unwrap();
    let mut command = processes::role("a_process");
    command.envs(stage.place(life).env());
    command.stdout(Stdio::from(log.try_clone().unwrap()));
    command.stderr(Stdio::from(log));
    if let Some(failpoint) = failpoint {
        command.env("TERMITARY_FAILPOINT", failpoint);
    }
    let mut command = tokio::process::Command::from(command);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let _parent = child.stdin.take();
    tokio::time::timeout(processes::PATIENCE, child.wait())
        .await
        .unwrap()
        .unwrap()
}

/// Dies at `point`, goes on, checks; answers what is wrong.
async fn case(point: Point, mode: &'static str) -> Vec<String> {
    let stage = Stage::set(mode).await;
    let nth = nth();
    let died = run(&stage, 1, Some(&format!("{}:{nth}=abort", point.name))).await;
    // Not every place is reached twice.
    if died.signal() != Some(SIGABRT) && !(nth > 1 && died.success()) {
        return vec![format!("never died there: {died}, {}", stage.tail(1))];
    }
    let went_on = run(&stage, 2, None).await;
    if !went_on.success() {
        return vec![format!("did not go on: {went_on}, {}", stage.tail(2))];
    }
    check::books(&stage).await
}

/// The time at which a place strikes; by hand, `TERMITARY_SWEEP_NTH=3` for the third.
fn nth() -> u32 {
    let nth = std::env::var("TERMITARY_SWEEP_NTH");
    nth.map_or(1, |nth| nth.parse().unwrap())
}

async fn sweep(mode: &'static str) {
    // By hand: `TERMITARY_SWEEP=relay` sweeps some of the places.
    let only = std::env::var("TERMITARY_SWEEP").unwrap_or_default();
    let points = POINTS
        .iter()
        .filter(|point| point.modes.contains(&mode) && point.name.starts_with(&only));
    let cases = points.map(|point| async move {
        let wrong = tokio::spawn(case(*point, mode)).await.unwrap();
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
    sweep("sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_anywhere_loses_and_doubles_nothing_on_redis() {
    sweep("redis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_without_a_death_balances_and_every_broken_book_is_seen() {
    let stage = Stage::set("sqlite").await;
    let ended = run(&stage, 1, None).await;
    assert!(ended.success(), "{}", stage.tail(1));
    check::sees_what_is_broken(&stage).await;
}
