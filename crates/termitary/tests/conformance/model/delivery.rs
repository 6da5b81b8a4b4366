//! One delivery of the reference.

use super::script::{Act, Kind};

/// All in seconds.
pub(crate) const RETRY: i64 = 3_600;
pub(crate) const RETRY_AFTER: i64 = 2 * 3_600;
pub(crate) const SNOOZE: i64 = 3 * 3_600;
pub(crate) const DELAY: i64 = 24 * 3_600;
pub(crate) const ATTEMPTS: u32 = 3;
/// After so many crashes it runs alone, so that the next two tell.
pub(super) const SUSPECT: u32 = 2;
const SUSPECT_WAIT: i64 = 10;
const GUILTY: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Due somewhen from the first instant to the second.
    Pending(i64, i64),
    /// Begun by a process that is gone.
    Orphaned,
    Done,
    Dead(&'static str),
    Parked(&'static str),
    Dropped,
    /// It was on the bus only, and Redis lost it.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(super) kind: Kind,
    pub(super) plan: Vec<Act>,
    /// On a stream only: the ledger knows nothing of it.
    pub(super) streamed: bool,
    pub(crate) state: State,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    /// The number of the attempt in each run of the handler.
    pub(crate) runs: Vec<u32>,
    pub(crate) effects: u32,
}

impl State {
    pub(super) fn is_due(self, now: i64) -> bool {
        matches!(self, Self::Pending(_, to) if to <= now)
    }

    pub(crate) fn is_letter(self) -> bool {
        matches!(self, Self::Dead(_) | Self::Parked(_))
    }
}

impl Delivery {
    pub(super) fn take_over(&mut self, now: i64) {
        if self.state != State::Orphaned {
            return;
        }
        self.streamed = false;
        self.crashes += 1;
        self.state = match self.crashes {
            ..SUSPECT => State::Pending(now, now),
            SUSPECT..GUILTY => State::Pending(now + SUSPECT_WAIT, now + SUSPECT_WAIT),
            _ => State::Dead("crashed"),
        };
    }

    pub(super) fn parks(&mut self, upgraded: bool) -> bool {
        let reason = match self.kind {
            Kind::Garbled => "undecodable",
            Kind::V2 if !upgraded => "version",
            _ => return false,
        };
        self.state = State::Parked(reason);
        self.streamed = false;
        true
    }

    pub(super) fn run(&mut self, now: i64) {
        let act = self.plan.get(self.runs.len()).copied();
        self.runs.push(self.attempts + 1);
        self.state = match act.unwrap_or(Act::Done) {
            Act::Done => {
                self.state = State::Done;
                return;
            }
            Act::Commit | Act::CommitThenFail => {
                self.effects += 1;
                State::Done
            }
            Act::Snooze => State::Pending(now + SNOOZE, now + SNOOZE),
            Act::GiveUp => {
                self.attempts += 1;
                State::Dead("permanent")
            }
            Act::RetryAfter => self.fail(now + RETRY_AFTER, now + RETRY_AFTER),
            Act::Fail | Act::Panic | Act::Stall | Act::RollBackThenFail | Act::LeaveOpen => {
                self.fail(now + RETRY / 2, now + RETRY)
            }
        };
        // All of these are settled in the ledger.
        self.streamed = false;
    }

    fn fail(&mut self, from: i64, to: i64) -> State {
        self.attempts += 1;
        if self.attempts >= ATTEMPTS {
            return State::Dead("error");
        }
        State::Pending(from, to)
    }
}
