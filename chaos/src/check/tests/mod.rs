//! Tests of the checker on small histories: a correct one is clean, and each single error in it is
//! found and named.

mod story;

use super::view::DRAIN;
use super::*;
use crate::events::Path;
use crate::history::{Line, Sample};
use story::{NOTED, Story};

#[test]
fn a_good_history_is_clean_in_both_modes() {
    for mut story in [Story::good(), Story::redis()] {
        let verdict = story.verdict();
        assert!(verdict.is_clean(), "{:#?}", verdict.findings);
        assert_eq!((verdict.numbers.published, verdict.numbers.events), (2, 3));
        assert_eq!(
            (
                verdict.numbers.effects,
                verdict.numbers.runs,
                verdict.numbers.ticks
            ),
            (3, 5, 1)
        );
    }
}

type Wrong = (&'static str, &'static str, fn(&mut Story));

/// Each error, added to a correct story, is found under its invariant and name.
fn are_found(wrongs: &[Wrong]) {
    for (invariant, what, wrong) in wrongs {
        let mut story = Story::good();
        wrong(&mut story);
        let findings = story.verdict().findings;
        let found = findings
            .iter()
            .any(|f| f.what == *what && f.invariant == *invariant);
        assert!(found, "{what}: {findings:#?}");
    }
}

#[test]
fn what_is_lost_is_found() {
    are_found(&[
        ("I1", "never finished", |s| {
            s.delivery(NOTED, 1).state = 1;
        }),
        ("I1", "never finished", |s| {
            s.delivery(NOTED, 1).state = -1;
        }),
        ("I1", "parked though every worker can read it", |s| {
            s.delivery(NOTED, 1).state = 4;
        }),
        ("I1", "dead for an unplanned reason", |s| {
            s.delivery(NOTED, 1).state = 3;
            s.delivery(NOTED, 1).reason = Some("error".to_owned());
        }),
        ("I1", "a subscription got no delivery", |s| {
            s.forget(NOTED, 1);
        }),
        ("I1", "done though no run of it succeeded", |s| {
            s.history
                .retain(|entry| !matches!(entry.line, Line::End { .. }));
        }),
        ("I1", "a confirmed publish left no event", |s| {
            s.published(9, 9, Path::BusId, 50);
            s.facts.events.remove(&9);
        }),
        (
            "I1",
            "a business row without its event, or an event without its row",
            |s| {
                s.facts.orders.clear();
            },
        ),
    ]);
}

#[test]
fn what_was_never_published_and_what_happened_twice_is_found() {
    are_found(&[
        ("I2", "a publish that failed or rolled back is real", |s| {
            let why = String::new();
            s.at(130, "publisher-1", Line::Fail { n: 7, why });
        }),
        ("I2", "an event without a publish", |s| {
            s.history
                .retain(|entry| !matches!(entry.line, Line::Invoke { .. }));
        }),
        ("I2", "an effect whose delivery is not done", |s| {
            s.delivery(NOTED, 2).state = 3;
        }),
        ("I3", "an effect happened more than once", |s| {
            let effect = s.facts.effects[0].clone();
            s.facts.effects.push(effect);
        }),
        ("I3", "done without its effect", |s| s.facts.effects.clear()),
        ("I3", "one publish made several events", |s| {
            s.event(9, "chaos.noted", 7, Some(Path::Tx));
        }),
        (
            "I3",
            "an effect and the event it published do not match",
            |s| {
                s.event(9, "chaos.echoed", 7, None);
            },
        ),
    ]);
}

#[test]
fn a_wrong_state_fence_tick_or_count_is_found() {
    are_found(&[
        ("I4", "a terminal state was left", |s| {
            s.crime("terminal");
        }),
        ("I5", "a fence fell", |s| {
            s.crime("fence");
        }),
        (
            "I5",
            "committed under a fence that another run had passed",
            |s| {
                let run = s.run(NOTED, 2, 7, 2);
                s.at(205, "worker-2", Line::Start(run));
                s.delivery(NOTED, 2).fence = 2;
            },
        ),
        ("I5", "a row's fence is below an earlier one", |s| {
            s.delivery(NOTED, 1).fence = 0;
        }),
        ("I6", "a tick has several events", |s| {
            s.event(9, "chaos.ticked", 500, None);
        }),
        ("I6", "a recorded tick has no event", |s| {
            s.facts.ticks.push((501, true));
        }),
        ("I6", "a tick is missing", |s| {
            s.event(9, "chaos.ticked", 502, None);
        }),
        ("I7", "a counter and its rows disagree", |s| {
            s.subscription(1, "noted.plain", "chaos.noted", 3);
        }),
        ("I7", "a counter and its rows disagree", |s| {
            // It counts on Redis, and was counted here too.
            s.delivery(1, 1).noted = true;
        }),
    ]);
}

#[test]
fn what_has_no_bound_is_found() {
    are_found(&[
        ("I8", "a process grew beyond its bound", |s| {
            let sample = Sample {
                resident_kib: 1_001,
                ..Sample::default()
            };
            s.at(300, "samples", Line::Sample(sample));
        }),
        ("I8", "a pending list grew beyond its bound", |s| {
            let sample = Sample {
                pending_list: 101,
                ..Sample::default()
            };
            s.at(300, "samples", Line::Sample(sample));
        }),
        ("I9", "a process exited by itself", |s| {
            let (name, status) = ("worker-1".to_owned(), "101".to_owned());
            s.at(300, "nemesis", Line::Ended { name, status });
        }),
        ("I9", "a dead worker's delivery was taken over late", |s| {
            s.cut_off_and_taken_over(160, 9_000);
        }),
        ("I9", "a new event waited too long after a fault", |s| {
            s.fault("stop-worker", 10, 20, false, &[]);
            s.later(10_000);
        }),
    ]);
}

#[test]
fn what_never_answered_may_be_or_not_be() {
    let mut story = Story::good();
    story.at(
        50,
        "publisher-2",
        Line::Invoke {
            n: 20,
            path: Path::Tx,
        },
    );
    story.at(
        51,
        "publisher-2",
        Line::Invoke {
            n: 21,
            path: Path::Rollback,
        },
    );
    assert!(story.verdict().is_clean());
    assert_eq!(story.verdict().numbers.unknown, 2);
}

#[test]
fn a_bus_event_may_go_with_the_data_of_its_server_and_only_then() {
    let lost = |story: &mut Story| {
        story.facts.events.remove(&3);
        (1..3).for_each(|subscription| {
            story.forget(3, subscription);
            story
                .facts
                .subscriptions
                .get_mut(&subscription)
                .unwrap()
                .done -= 1;
        });
    };
    let mut story = Story::redis();
    lost(&mut story);
    let verdict = story.verdict();
    assert_eq!(
        (verdict.numbers.lost, verdict.numbers.lost_with_server),
        (1, 0)
    );
    assert!(!verdict.is_clean());

    let mut before = Story::redis();
    lost(&mut before);
    before.fault("redis-empty", 20, 90, true, &[]);
    assert!(
        !before.verdict().is_clean(),
        "the server lost its data before the publish"
    );

    let mut story = Story::redis();
    lost(&mut story);
    story.fault("redis-empty", 115, 400, true, &[]);
    let verdict = story.verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.findings);
    assert_eq!(
        (verdict.numbers.lost, verdict.numbers.lost_with_server),
        (0, 1)
    );
}

#[test]
fn a_transactional_event_has_no_such_excuse() {
    let mut story = Story::redis();
    story.delivery(NOTED, 1).state = 1;
    story.fault("redis-empty", 115, 400, true, &[]);
    assert_eq!(story.verdict().numbers.lost, 1);
}

#[test]
fn a_takeover_in_time_is_measured() {
    let mut story = Story::good();
    story.cut_off_and_taken_over(160, 2_300);
    let verdict = story.verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.findings);
    assert_eq!(verdict.numbers.worst_takeover_ms, 2_140);
    assert_eq!(
        (verdict.numbers.kills, verdict.numbers.duplicate_runs),
        (1, 1)
    );
}

#[test]
fn what_another_fault_fell_into_is_not_measured() {
    let mut story = Story::good();
    story.cut_off_and_taken_over(160, 9_000);
    story.fault("redis-kill", 500, 4_000, false, &[]);
    let verdict = story.verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.findings);
}

#[test]
fn the_drain_is_no_fault() {
    let mut story = Story::good();
    story.fault(DRAIN, 400, 900, false, &[]);
    let numbers = story.verdict().numbers;
    assert_eq!((numbers.faults, numbers.drained_ms), (0, 500));
}

#[test]
fn a_quarantined_delivery_is_terminal_and_counted() {
    let mut story = Story::good();
    story.delivery(NOTED, 1).state = 3;
    story.delivery(NOTED, 1).reason = Some("crashed".to_owned());
    story.facts.subscriptions.get_mut(&1).unwrap().done = 1;
    let verdict = story.verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.findings);
    assert_eq!(verdict.numbers.quarantined, 1);
}

#[test]
fn a_run_in_which_nothing_happened_proves_nothing() {
    let mut story = Story::good();
    (story.facts, story.history) = (Facts::default(), Vec::new());
    assert!(!story.verdict().is_clean());
}
