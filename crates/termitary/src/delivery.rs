//! A delivery on its way: the route that owes it, the claim of a worker that leased
//! it, and the outcome of an attempt.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use crate::event::Envelope;

/// A worker process: fresh at every start, so that nobody takes over the
/// identity of the dead.
pub(crate) type WorkerId = Arc<str>;

/// A registered subscription, as brokers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its row in the ledger.
    pub(crate) id: i64,
    pub(crate) name: String,
    /// The names that reach it: the event on record, then the others. Those that this
    /// code does not name are read all the same, and parked.
    pub(crate) events: Vec<String>,
    /// Those of them that did not reach it before this declaration, although it was
    /// known.
    pub(crate) fresh: Vec<String>,
    /// It stood in the ledger before this declaration: a broker that does not
    /// know it has lost data.
    pub(crate) known: bool,
}

/// The right to settle one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) event: Uuid,
    pub(crate) route: i64,
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "streams are owned by name")
    )]
    pub(crate) worker: WorkerId,
    /// Rises with every lease the ledger gives; older claims change nothing.
    pub(crate) fence: i64,
    pub(crate) origin: Origin,
}

impl Claim {
    /// Its row in the ledger, where it has one: event `seq`, route and fence.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unnecessary_wraps, reason = "only stream events have no row")
    )]
    pub(crate) fn row(&self) -> Option<(i64, i64, i64)> {
        match &self.origin {
            Origin::Ledger { seq, .. } => Some((*seq, self.route, self.fence)),
            #[cfg(feature = "redis")]
            Origin::Stream { .. } => None,
        }
    }
}

/// Where a delivery's truth lives.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A row of the ledger, by the event's `seq`; with Redis, also the entry
    /// that carries it.
    Ledger {
        seq: i64,
        #[cfg_attr(
            not(feature = "redis"),
            expect(dead_code, reason = "entries are on streams")
        )]
        entry: Option<Entry>,
    },
    /// A stream entry only (`bus.publish` on Redis). The ledger adopts it when
    /// it does anything but succeed.
    #[cfg(feature = "redis")]
    Stream {
        envelope: Arc<Envelope>,
        entry: Entry,
    },
}

/// A stream entry on Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) id: Arc<str>,
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few entries of different streams share an id.
        self.id.hash(state);
    }
}

/// A leased delivery, ready to run.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) envelope: Arc<Envelope>,
    /// Handler errors so far.
    pub(crate) attempts: u32,
    pub(crate) claim: Claim,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Finished; `committed` when nothing is left to be said in the ledger: the
    /// handler's own transaction did, or the delivery is another worker's.
    Done { committed: bool },
    /// An error was counted; due again at `due_us`.
    Retry { due_us: i64, error: String },
    /// No error was counted; due again at `due_us`.
    Snooze { due_us: i64 },
    /// Given up.
    Dead {
        reason: &'static str,
        error: String,
        counted: bool,
    },
    /// Kept untouched: this code cannot read it.
    Parked { reason: &'static str, error: String },
}

/// A claim and how its attempt ended.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) claim: Claim,
    pub(crate) outcome: Outcome,
}

/// What a transport counts for one route, beside the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Deliveries that wait on streams.
    pub(crate) pending: u64,
    /// Deliveries on streams that a worker holds.
    pub(crate) leased: u64,
    /// Stream-only events finished so far.
    pub(crate) done: u64,
    /// How many that the ledger counts as leased are counted above instead.
    pub(crate) handed: u64,
}

/// Where a reader of the event history stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) seq: i64,
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only streams have positions")
    )]
    pub(crate) streams: std::collections::BTreeMap<String, String>,
}
