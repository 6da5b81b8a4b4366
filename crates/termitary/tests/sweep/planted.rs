//! The sweep is tested itself: a mistake that is built into the library on
//! purpose turns it red.

use crate::case::{Case, Fault};

/// Plays the cases until one finds the mistake, by a rule that begins so.
async fn is_found(mistake: &'static str, rule: &str, cases: impl IntoIterator<Item = Case>) {
    let (mut found, mut said) = (false, Vec::new());
    for case in cases {
        let case = case
            .env("TERMITARY_PLANTED_BUG", mistake)
            .env("SWEEP_PATIENCE", "15000");
        said = tokio::spawn(case.play()).await.unwrap();
        found = said.iter().any(|wrong| wrong.starts_with(rule));
        if found {
            break;
        }
    }
    assert!(found, "{mistake} was not found, last: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_before_the_commit_turns_the_sweep_red() {
    let place = "ledger.before_commit";
    let cases = [Case::new(place, "sqlite", Fault::Death)];
    is_found("settle-before-commit", "I1: committed orders that", cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_without_asking_for_the_owner_turns_the_sweep_red() {
    let sleeps = |nth| {
        let case = Case::new("handler.before", "sqlite", Fault::SleepAlone);
        // In that moment it has nothing but its lease.
        case.nth(nth).env("SWEEP_LINGER", "30")
    };
    is_found("no-owner-check", "I3", (1..=12).map(sleeps)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_forgets_between_two_steps_turns_the_sweep_red() {
    let cases = [Case::new("relay.claimed", "redis", Fault::Death)];
    is_found("forgetful-relay", "did not go on", cases).await;
}
