//! The checker: compares the database and the histories of the processes with the promises. It
//! reads no file and no clock.
//!
//! I1 every committed event is terminal for every subscription · I2 nothing without a committed
//! event · I3 one effect per (event, subscription) · I4 no terminal state is left · I5 the fence
//! never falls, and each commit holds the highest · I6 exactly one event per tick · I7 counters and
//! rows agree · I8 memory, pending lists, connections and log are bounded · I9 recovery within the
//! documented bound.

mod bounds;
mod effects;
mod ledger;
mod lost;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod view;

use serde::Serialize;

use crate::facts::Facts;
use crate::history::Entry;

pub(crate) use view::DRAIN;
use view::View;

/// Bounds for the checker.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Deliveries travel through Redis.
    pub(crate) redis: bool,
    pub(crate) lease_ms: u64,
    pub(crate) reconcile_ms: u64,
    /// Time that a busy machine may add to every bound.
    pub(crate) slack_ms: u64,
    pub(crate) resident_kib: u64,
    pub(crate) pending_list: u64,
    pub(crate) connections: u64,
    pub(crate) log_bytes: u64,
}

/// One broken promise, with examples.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) invariant: &'static str,
    pub(crate) what: &'static str,
    pub(crate) count: usize,
    pub(crate) examples: Vec<String>,
}

/// The numbers of the summary.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Numbers {
    pub(crate) published: usize,
    pub(crate) unknown: usize,
    pub(crate) events: usize,
    pub(crate) deliveries: usize,
    pub(crate) runs: usize,
    pub(crate) faults: usize,
    pub(crate) faults_by_name: std::collections::BTreeMap<String, usize>,
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) server_losses: usize,
    /// Committed and never finished.
    pub(crate) lost: usize,
    /// Published by `bus.publish` over Redis, confirmed, and lost with the server's data.
    pub(crate) lost_with_server: usize,
    /// Runs of one attempt beyond the first.
    pub(crate) duplicate_runs: usize,
    pub(crate) effects: usize,
    pub(crate) effects_doubled: usize,
    pub(crate) ticks: usize,
    /// Lost to two crashes, then run alone.
    pub(crate) suspects: usize,
    /// Dead as `crashed`: their processes were killed too often.
    pub(crate) quarantined: usize,
    pub(crate) worst_takeover_ms: u64,
    pub(crate) worst_recovery_ms: u64,
    pub(crate) drained_ms: u64,
    pub(crate) largest_resident_kib: u64,
    pub(crate) largest_pending_list: u64,
    pub(crate) most_connections: u64,
    pub(crate) largest_log_bytes: u64,
}

/// The result: clean if there are no findings.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    pub(crate) numbers: Numbers,
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Records a broken promise; repetitions are counted together.
    fn finds(&mut self, invariant: &'static str, what: &'static str, example: String) {
        let known = self.findings.iter_mut().find(|known| known.what == what);
        match known {
            Some(known) => {
                known.count += 1;
                if known.examples.len() < 5 {
                    known.examples.push(example);
                }
            }
            None => self.findings.push(Finding {
                invariant,
                what,
                count: 1,
                examples: vec![example],
            }),
        }
    }
}

/// Compares the facts with the promises.
pub(crate) fn check(facts: &Facts, history: &[Entry], limits: &Limits) -> Verdict {
    let view = View::of(facts, history);
    let mut verdict = Verdict::default();
    lost::check(&view, limits, &mut verdict);
    effects::check(&view, &mut verdict);
    ledger::check(&view, &mut verdict);
    bounds::check(&view, limits, &mut verdict);
    if verdict.numbers.published == 0 || verdict.numbers.effects == 0 || verdict.numbers.ticks == 0
    {
        let example = "nothing was published, or handled, or no tick fired".to_owned();
        verdict.finds("I1", "the run proves nothing", example);
    }
    verdict
}
