//! A small hand-written run of the harness: its database and its histories.

use crate::check::{Limits, Verdict, check};
use crate::events::Path;
use crate::facts::{Crime, Delivery, Effect, Event, Facts, Subscription};
use crate::history::{Entry, Fault, Line, Run};

pub(super) const NOTED: i64 = 1;
const TICKED: i64 = 2;

/// One event in a transaction, one on the bus and one tick, all handled.
pub(super) struct Story {
    pub(super) facts: Facts,
    pub(super) history: Vec<Entry>,
    redis: bool,
}

impl Story {
    pub(super) fn good() -> Self {
        let mut story = Self {
            facts: Facts::default(),
            history: Vec::new(),
            redis: false,
        };
        story.subscription(1, "noted.plain", "chaos.noted", 2);
        story.subscription(2, "noted.slow", "chaos.noted", 2);
        story.subscription(3, "ticked.effect", "chaos.ticked", 1);
        story.published(NOTED, 7, Path::Tx, 100);
        story.facts.orders.insert(7);
        story.published(3, 8, Path::Bus, 110);
        story.event(TICKED, "chaos.ticked", 500, None);
        story.facts.ticks.push((500, true));
        for (event, n) in [(NOTED, 7), (3, 8)] {
            story.handled(event, 1, n, false);
            story.handled(event, 2, n, true);
        }
        story.handled(TICKED, 3, 500, true);
        story
    }

    pub(super) fn redis() -> Self {
        Self {
            redis: true,
            ..Self::good()
        }
    }

    pub(super) fn at(&mut self, at_ms: u64, process: &str, line: Line) {
        let process = process.to_owned();
        self.history.push(Entry {
            at_ms,
            process,
            line,
        });
    }

    pub(super) fn subscription(&mut self, id: i64, name: &str, event: &str, done: u64) {
        let (name, event) = (name.to_owned(), event.to_owned());
        self.facts
            .subscriptions
            .insert(id, Subscription { name, event, done });
    }

    pub(super) fn event(&mut self, seq: i64, name: &str, n: u64, path: Option<Path>) {
        let (id, name) = (format!("id-{seq}"), name.to_owned());
        self.facts.events.insert(seq, Event { id, name, n, path });
    }

    pub(super) fn published(&mut self, seq: i64, n: u64, path: Path, at_ms: u64) {
        self.event(seq, "chaos.noted", n, Some(path));
        self.at(at_ms, "publisher-1", Line::Invoke { n, path });
        self.at(at_ms + 10, "publisher-1", Line::Ok { n });
    }

    pub(super) fn run(&self, event: i64, subscription: i64, n: u64, fence: i64) -> Run {
        Run {
            event: format!("id-{event}"),
            subscription: self.facts.subscriptions[&subscription].name.clone(),
            n,
            fence,
            attempt: 1,
        }
    }

    pub(super) fn handled(&mut self, event: i64, subscription: i64, n: u64, effect: bool) {
        let run = self.run(event, subscription, n, 1);
        if effect {
            self.facts.effects.push(Effect {
                event: run.event.clone(),
                subscription: run.subscription.clone(),
                n,
                fence: 1,
            });
        }
        self.at(200, "worker-1", Line::Start(run.clone()));
        self.at(220, "worker-1", Line::End { run, ok: true });
        self.facts.deliveries.push(Delivery {
            event,
            subscription,
            state: 2,
            fence: 1,
            crashes: 0,
            reason: None,
            noted: false,
        });
    }

    /// Removes every record of a delivery.
    pub(super) fn forget(&mut self, event: i64, subscription: i64) {
        let run = self.run(event, subscription, 0, 1);
        let of = |r: &Run| r.event == run.event && r.subscription == run.subscription;
        self.history.retain(|entry| match &entry.line {
            Line::Start(run) | Line::End { run, .. } => !of(run),
            _ => true,
        });
        self.facts
            .effects
            .retain(|e| e.event != run.event || e.subscription != run.subscription);
        self.facts
            .deliveries
            .retain(|d| d.event != event || d.subscription != subscription);
    }

    pub(super) fn delivery(&mut self, event: i64, subscription: i64) -> &mut Delivery {
        let mut all = self.facts.deliveries.iter_mut();
        all.find(|d| d.event == event && d.subscription == subscription)
            .unwrap()
    }

    pub(super) fn fault(
        &mut self,
        name: &str,
        from_ms: u64,
        until_ms: u64,
        loses: bool,
        killed: &[&str],
    ) {
        let fault = Fault {
            name: name.to_owned(),
            target: "worker-1".to_owned(),
            from_ms,
            until_ms,
            loses,
            killed: killed.iter().map(|&name| name.to_owned()).collect(),
        };
        self.at(until_ms, "nemesis", Line::Fault(fault));
    }

    /// A run that its process never ended, and the next run of its delivery.
    pub(super) fn cut_off_and_taken_over(&mut self, killed_ms: u64, taken_ms: u64) {
        let run = self.run(NOTED, 1, 7, 1);
        for entry in &mut self.history {
            match &entry.line {
                Line::Start(other) if *other == run => entry.at_ms = taken_ms,
                Line::End { run: other, .. } if *other == run => entry.at_ms = taken_ms + 20,
                _ => {}
            }
        }
        self.at(150, "worker-9", Line::Start(run));
        self.fault("kill-worker", killed_ms, killed_ms, false, &["worker-9"]);
    }

    /// Adds a violation, as a trigger of the harness records it.
    pub(super) fn crime(&mut self, what: &str) {
        let (what, detail) = (what.to_owned(), String::new());
        self.facts.crimes.push(Crime { what, detail });
    }

    /// Delays the start and the end of every handler.
    pub(super) fn later(&mut self, by_ms: u64) {
        for entry in self.history.iter_mut().filter(|entry| entry.at_ms >= 200) {
            entry.at_ms += by_ms;
        }
    }

    pub(super) fn verdict(&mut self) -> Verdict {
        let limits = Limits {
            redis: self.redis,
            lease_ms: 2_000,
            reconcile_ms: 4_000,
            slack_ms: 1_000,
            resident_kib: 1_000,
            pending_list: 100,
            connections: 10,
            log_bytes: 1_000,
        };
        self.history.sort_by_key(|entry| entry.at_ms);
        check(&self.facts, &self.history, &limits)
    }
}
