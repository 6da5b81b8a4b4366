//! A short slice of chaos with fixed seeds: every promise must hold. `cargo xtask chaos` runs
//! longer.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;

use serde_json::Value;

/// Runs the driver once; returns its findings.
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

const SHORT: [&str; 6] = [
    "--minutes",
    "0.3",
    "--lease-ms",
    "1000",
    "--pace-ms",
    "1200",
];

#[test]
fn killed_stopped_and_misled_processes_on_sqlite_lose_and_double_nothing() {
    let args = [
        "--mode",
        "sqlite",
        "--seed",
        "1",
        "--faults",
        "kill,stop,clock,database",
    ];
    stays_clean(&[&args[..], &SHORT].concat());
}

#[test]
fn killed_stopped_and_misled_processes_over_redis_lose_and_double_nothing() {
    let args = [
        "--mode",
        "redis",
        "--seed",
        "2",
        "--faults",
        "kill,stop,clock,database",
    ];
    stays_clean(&[&args[..], &SHORT].concat());
}

#[test]
fn a_server_and_a_network_that_fail_lose_and_double_nothing() {
    let args = [
        "--mode",
        "redis",
        "--seed",
        "3",
        "--reconcile-ms",
        "2000",
        "--faults",
        "redis,wire",
    ];
    stays_clean(&[&args[..], &SHORT].concat());
}

#[test]
#[ignore = "by hand: a worker that registers while the server dies exits"]
fn processes_and_a_database_server_that_die_lose_and_double_nothing_on_postgres() {
    let args = [
        "--mode",
        "sql",
        "--database",
        "postgres",
        "--seed",
        "4",
        "--faults",
        "kill,stop,clock,database",
    ];
    stays_clean(&[&args[..], &SHORT].concat());
}

#[test]
fn a_database_server_and_a_redis_that_die_lose_and_double_nothing_on_postgres() {
    let args = [
        "--mode",
        "redis",
        "--database",
        "postgres",
        "--seed",
        "5",
        "--reconcile-ms",
        "2000",
        "--faults",
        "kill,database,redis",
    ];
    stays_clean(&[&args[..], &SHORT].concat());
}

/// Each of these mistakes is built into the library under a feature. The checker must find it
/// through the promise that it breaks.
#[cfg(feature = "planted-bugs")]
mod planted {
    use super::drive;

    /// The checker must name one of these invariants; timing decides which one.
    fn is_found(mistake: &str, invariants: &[&str], args: &[&str]) {
        let common = [
            "--planted",
            mistake,
            "--seed",
            "7",
            "--pace-ms",
            "900",
            "--patience-seconds",
            "6",
        ];
        let answer = drive(&[&common[..], args].concat());
        assert_eq!(
            answer["clean"], false,
            "{mistake} was not found: {answer:#}"
        );
        let findings = answer["findings"].as_array().unwrap();
        let found = findings
            .iter()
            .any(|finding| invariants.iter().any(|one| finding["invariant"] == *one));
        assert!(
            found,
            "{mistake} does not break {invariants:?}: {findings:#?}"
        );
        std::fs::remove_dir_all(answer["folder"].as_str().unwrap()).unwrap();
    }

    #[test]
    fn settling_before_the_commit_turns_a_run_red() {
        is_found(
            "settle-before-commit",
            &["I3"],
            &["--mode", "sqlite", "--minutes", "0.1", "--faults", "kill"],
        );
    }

    #[test]
    fn settling_without_asking_for_the_owner_turns_a_run_red() {
        is_found(
            "no-owner-check",
            // An effect twice, a final state left, or a fence that was passed.
            &["I3", "I4", "I5"],
            &[
                "--mode",
                "sqlite",
                "--minutes",
                "0.3",
                "--lease-ms",
                "600",
                "--faults",
                "stop-worker",
            ],
        );
    }

    #[test]
    fn trimming_by_length_turns_a_run_red() {
        is_found(
            "maxlen-trim",
            &["I1"],
            &[
                "--mode",
                "redis",
                "--minutes",
                "0.1",
                "--faults",
                "stop-worker",
            ],
        );
    }

    #[test]
    fn relaying_by_a_cursor_turns_a_run_red() {
        is_found(
            "cursor-relay",
            &["I1"],
            &[
                "--mode",
                "redis",
                "--minutes",
                "0.1",
                "--faults",
                "stop-publisher",
            ],
        );
    }
}
