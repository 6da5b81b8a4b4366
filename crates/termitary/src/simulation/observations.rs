//! The observations of the simulated processes, for comparison with the ledger.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use uuid::Uuid;

use crate::delivery::{Claim, Origin, Outcome, Settlement, WorkerId};

/// A delivery: event and subscription.
pub(super) type Key = (Uuid, i64);

#[derive(Default)]
pub(super) struct Observations {
    pub(super) step: u32,
    trace: String,
    pub(super) violations: Vec<String>,
    /// The worker that was given each fence.
    granted: HashMap<(Key, i64), WorkerId>,
    /// Errors that were reported, whether or not they were taken.
    pub(super) counted: HashMap<Key, i64>,
    /// Deliveries whose worker was told that its "done" is valid.
    pub(super) done: HashSet<Key>,
    /// Published in a transaction whose commit was confirmed, or never requested.
    pub(super) committed: HashSet<Uuid>,
    pub(super) rolled_back: HashSet<Uuid>,
    /// Confirmed by the bus.
    pub(super) on_bus: HashSet<Uuid>,
    /// An operator may still change letters before this step.
    pub(super) operator_until: u32,
    /// Redis was made to forget something.
    pub(super) redis_lost: bool,
    pub(super) seen: Seen,
}

/// Number of actions: a simulation without any proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) leased: u64,
    pub(super) refused: u64,
    pub(super) killed: u64,
    pub(super) stalled: u64,
    pub(super) blocked: u64,
    pub(super) crashes: u64,
    pub(super) quarantined: u64,
    pub(super) events: u64,
    pub(super) errors: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: Self) {
        self.leased += other.leased;
        self.refused += other.refused;
        self.killed += other.killed;
        self.stalled += other.stalled;
        self.blocked += other.blocked;
        self.crashes += other.crashes;
        self.quarantined += other.quarantined;
        self.events += other.events;
        self.errors += other.errors;
    }
}

impl Observations {
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.trace, "{:>4} {text}", self.step);
    }

    pub(super) fn violated(&mut self, text: String) {
        self.note(&format!("VIOLATED {text}"));
        self.violations.push(text);
    }

    pub(super) fn trace(&self) -> &str {
        &self.trace
    }

    /// A worker was given a delivery.
    pub(super) fn leased(&mut self, claim: &Claim) {
        self.seen.leased += 1;
        self.note(&format!("  {} has {}", claim.worker, brief(claim)));
        if !matches!(claim.origin, Origin::Ledger { .. }) {
            return; // a stream gives its entries with fence 1 to any worker
        }
        let key = ((claim.event, claim.route), claim.fence);
        let first = self
            .granted
            .entry(key)
            .or_insert_with(|| claim.worker.clone())
            .clone();
        if first != claim.worker {
            self.violated(format!(
                "{} was given to {first} and to {}",
                brief(claim),
                claim.worker
            ));
        }
    }

    /// A worker is about to report how attempts ended.
    pub(super) fn settling(&mut self, settlement: &Settlement) {
        let claim = &settlement.claim;
        let what = match &settlement.outcome {
            Outcome::Done { committed: true } => "done with its effect",
            Outcome::Done { .. } => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Snooze { .. } => "snooze",
            Outcome::Dead { .. } => "dead",
            Outcome::Parked { .. } => "parked",
        };
        self.note(&format!(
            "  {} says {what} of {}",
            claim.worker,
            brief(claim)
        ));
        if matches!(
            settlement.outcome,
            Outcome::Retry { .. } | Outcome::Dead { counted: true, .. }
        ) {
            *self.counted.entry((claim.event, claim.route)).or_default() += 1;
        }
    }

    /// The result of a settlement.
    pub(super) fn settled(&mut self, settlement: &Settlement, held: bool) {
        let claim = &settlement.claim;
        let held_text = if held { "held" } else { "lost" };
        self.note(&format!("  {} {held_text} {}", claim.worker, brief(claim)));
        self.seen.refused += u64::from(!held);
        let in_ledger = matches!(claim.origin, Origin::Ledger { .. });
        if held && in_ledger && matches!(settlement.outcome, Outcome::Done { .. }) {
            self.done.insert((claim.event, claim.route));
        }
    }
}

fn brief(claim: &Claim) -> String {
    format!(
        "{}/{} fence {}{}",
        short(claim.event),
        claim.route,
        claim.fence,
        if claim.row().is_none() {
            " (stream)"
        } else {
            ""
        }
    )
}

/// The random end of an id.
pub(super) fn short(id: Uuid) -> String {
    id.simple().to_string().split_off(24)
}
