//! A seeded simulation of relays, workers, publishers, schedulers and operators
//! on one ledger, with faults between any two of their awaits.
//!
//! Every actor is a future, and one process: its own broker, its own worker id. At each step a seed
//! decides how often each of them is polled, which one dies (is dropped, with everything it held)
//! or sleeps while others take over and then continues with its old beliefs, when time passes, when
//! the database refuses writes, and when Redis loses data. Then the system is healed and drained,
//! the sleeping processes wake, and `checker` compares the ledger with the promises.
//!
//! `TERMITARY_SIM_SEED=n` runs one seed and prints its trace; `TERMITARY_SIM_RUNS=n` sets the
//! number of runs. A seed repeats every choice; only the order in which the database serves two
//! waiting actors may differ.
//!
//! It does not cover power cuts (its commits are durable), processes that meet as `SQLITE_BUSY`
//! (all share the connections), and wrong clocks. The crash and chaos tests do.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod actor;
mod checker;
mod observations;
#[cfg(feature = "planted-bugs")]
mod planted;
mod recovery;
mod redis;
mod roles;
mod run;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use observations::Seen;
use run::Failure;
use world::Mode;

/// Runs wait for the database most of the time: more threads than cores.
const THREADS: u64 = 4;
const SQL_RUNS: u64 = 1_500;
const REDIS_RUNS: u64 = 500;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One run on a runtime of its own, so that nothing of it outlives it.
fn one(seed: u64, mode: &Mode) -> Result<Seen, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run::simulate(seed, mode))
}

fn report(seed: u64, failure: &Failure) -> String {
    format!(
        "seed {seed}: {}\n{}",
        failure.violations.join("\n         "),
        failure.trace
    )
}

/// Runs `runs` seeds, or the one that the environment names.
fn simulate(runs: u64, mode: impl Fn() -> Mode + Sync) {
    if let Some(seed) = setting("TERMITARY_SIM_SEED") {
        match one(seed, &mode()) {
            Ok(seen) => println!("seed {seed}: all promises kept, {seen:?}"),
            Err(failure) => panic!("{}", report(seed, &failure)),
        }
        return;
    }
    let runs = setting("TERMITARY_SIM_RUNS").unwrap_or(runs);
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Seen::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (next, failures, total, mode) = (&next, &failures, &total, &mode);
            scope.spawn(move || {
                let mode = mode();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= runs || failures.lock().unwrap().len() >= 5 {
                        return;
                    }
                    match one(number, &mode) {
                        Ok(seen) => total.lock().unwrap().add(seen),
                        Err(failure) => failures.lock().unwrap().push((number, failure)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|(seed, failure)| (failure.trace.len(), *seed));
    println!(
        "{runs} runs in {:?}: {:?}",
        began.elapsed(),
        total.into_inner().unwrap()
    );
    let seeds: Vec<_> = failures.iter().map(|(seed, _)| *seed).collect();
    if let Some((seed, failure)) = failures.first() {
        panic!(
            "seeds {seeds:?} broke a promise; {}",
            report(*seed, failure)
        );
    }
}

#[test]
fn no_crash_stall_or_refused_write_breaks_a_promise() {
    simulate(SQL_RUNS, || Mode::Sql);
}

#[test]
fn no_crash_stall_or_loss_of_redis_breaks_a_promise() {
    simulate(REDIS_RUNS, || Mode::Redis(redis::Server::start()));
}
