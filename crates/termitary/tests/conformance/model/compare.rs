//! Compares the whole state of the engine with the reference.

use std::collections::BTreeMap;

use termitary::inspect::{LetterFilter, LetterState};

use super::delivery::State;
use super::real::System;
use super::reference::{Key, World};
use super::script::SUBSCRIPTIONS;

impl System {
    pub(super) async fn compare(&self, world: &World) {
        self.compare_counts(world).await;
        self.compare_letters(world).await;
        self.compare_runs(world);
        let echoes: BTreeMap<u32, u32> = world.echoes.iter().map(|n| (*n, 1)).collect();
        assert_eq!(
            self.book.echoes(),
            echoes,
            "what committed handlers published"
        );
        let effects: Vec<(u32, u32)> =
            sqlx::query_as("SELECT n, COUNT(*) FROM effects GROUP BY n ORDER BY n")
                .fetch_all(&mut *self.stand.db().read().await.unwrap())
                .await
                .unwrap();
        let expected: Vec<_> = world
            .deliveries
            .iter()
            .filter(|(_, d)| d.effects > 0)
            .map(|((n, _), d)| (*n, d.effects))
            .collect();
        assert_eq!(effects, expected, "effects through the ledger");
    }

    /// The number of the attempt in each run; exactly one run for each, but
    /// where Redis was lost under it.
    fn compare_runs(&self, world: &World) {
        let mut found = self.book.runs();
        for (key, place) in &world.blurred {
            if let Some(run) = found.get_mut(key).and_then(|runs| runs.get_mut(*place)) {
                run.dedup();
            }
        }
        let expected: BTreeMap<Key, Vec<Vec<u32>>> = world
            .deliveries
            .iter()
            .filter(|(_, d)| !d.runs.is_empty())
            .map(|(key, d)| (*key, d.runs.iter().map(|attempt| vec![*attempt]).collect()))
            .collect();
        assert_eq!(found, expected, "the attempt in each run");
    }

    async fn compare_counts(&self, world: &World) {
        let status = self.status().await;
        for (sub, name) in SUBSCRIPTIONS.iter().enumerate() {
            let found = status
                .subscriptions
                .iter()
                .find(|s| s.name == *name)
                .unwrap();
            let found = [
                found.pending,
                found.due,
                found.leased,
                found.dead,
                found.parked,
                found.done,
            ];
            let expected = [
                world.count(sub, |s| matches!(s, State::Pending(..))),
                world.due(sub),
                world.count(sub, |s| s == State::Orphaned),
                world.count(sub, |s| matches!(s, State::Dead(_))),
                world.count(sub, |s| matches!(s, State::Parked(_))),
                world.done(sub),
            ];
            if world.shaken && world.workers == 0 {
                assert!(found[0] <= expected[0] && found[1] <= expected[1]);
                assert_eq!(found[2..], expected[2..]);
                continue;
            }
            assert_eq!(
                found, expected,
                "{name}: pending, due, leased, dead, parked, done"
            );
        }
        let echo = status
            .subscriptions
            .iter()
            .find(|s| s.name == "echo")
            .unwrap();
        assert_eq!(
            (echo.pending, echo.leased, echo.done),
            (0, 0, world.echoes.len() as u64),
            "echo"
        );
    }

    async fn compare_letters(&self, world: &World) {
        let all = LetterFilter::default();
        let letters = self.broker.inspect().letters(&all, 10_000).await.unwrap();
        let found: BTreeMap<Key, _> = letters
            .into_iter()
            .map(|letter| {
                let sub = SUBSCRIPTIONS.iter().position(|s| *s == letter.subscription);
                let key = (self.ids[&letter.event.id], sub.unwrap());
                let dead = letter.state == LetterState::Dead;
                (key, (dead, letter.reason, letter.attempts, letter.crashes))
            })
            .collect();
        let expected: BTreeMap<Key, _> = world
            .deliveries
            .iter()
            .filter_map(|(key, d)| {
                let (dead, reason) = match d.state {
                    State::Dead(reason) => (true, reason),
                    State::Parked(reason) => (false, reason),
                    _ => return None,
                };
                Some((*key, (dead, reason.to_owned(), d.attempts, d.crashes)))
            })
            .collect();
        assert_eq!(found, expected, "letters");
    }
}
