//! A short slice of chaos with fixed seeds: every promise must hold. What runs
//! longer is `cargo xtask chaos`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;

use serde_json::Value;

/// One run of the driver; answers what it found.
fn drive(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_termitary-chaos"))
        .args(["drive", "--json"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let answer: Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}{errors}"));
    assert_eq!(output.status.success(), answer["clean"] == true, "{errors}");
    answer
}

fn stays_clean(args: &[&str]) {
    let answer = drive(args);
    assert_eq!(answer["clean"], true, "{answer:#}");
    assert_eq!(answer["numbers"]["lost"], 0, "{answer:#}");
    assert_eq!(answer["numbers"]["effectsDoubled"], 0, "{answer:#}");
}

#[test]
fn killed_processes_on_sqlite_lose_and_double_nothing() {
    stays_clean(&[
        "--mode",
        "sqlite",
        "--seed",
        "1",
        "--minutes",
        "0.2",
        "--faults",
        "kill",
        "--pace-ms",
        "1500",
    ]);
}

#[test]
fn killed_processes_over_redis_lose_and_double_nothing() {
    stays_clean(&[
        "--mode",
        "redis",
        "--seed",
        "1",
        "--minutes",
        "0.2",
        "--faults",
        "kill",
        "--pace-ms",
        "1500",
    ]);
}
