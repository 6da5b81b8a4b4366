//! A delivery on its way: the route that owes it, the claim of the worker that leased it,
//! and the outcome of an attempt.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use crate::event::Envelope;

/// The id of a worker process: new at every start, so that no process takes over the
/// identity of a dead one.
pub(crate) type WorkerId = Arc<str>;

/// A registered subscription, as brokers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its row in the ledger.
    pub(crate) id: i64,
    pub(crate) name: String,
    /// The event names that reach it: the event on record, then the others. Events under a
    /// name that this code does not know are read too, and parked.
    pub(crate) events: Vec<String>,
    /// The names among them that this declaration added to a known subscription.
    pub(crate) fresh: Vec<String>,
    /// The ledger had it before this declaration: a broker that does not know it has lost
    /// data.
    pub(crate) known: bool,
}

/// The right to settle one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) event: Uuid,
    pub(crate) route: i64,
    /// The owner of a pending entry on a stream.
    pub(crate) worker: WorkerId,
    /// Rises with every lease that the ledger gives; older claims change nothing.
    pub(crate) fence: i64,
    pub(crate) origin: Origin,
}

impl Claim {
    /// Its row in the ledger, if it has one: `seq` of the event, route and fence.
    pub(crate) fn row(&self) -> Option<(i64, i64, i64)> {
        match &self.origin {
            Origin::Ledger { seq, .. } => Some((*seq, self.route, self.fence)),
            Origin::Stream { .. } => None,
        }
    }

    /// The stream entry that carries it, if one does.
    pub(crate) fn entry(&self) -> Option<&EntryAddress> {
        match &self.origin {
            Origin::Ledger { entry, .. } => entry.as_ref(),
            Origin::Stream { entry, .. } => Some(entry),
        }
    }
}

/// The place that holds the truth about a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A row of the ledger, by the `seq` of its event; with Redis, also the entry that
    /// carries it.
    Ledger {
        seq: i64,
        entry: Option<EntryAddress>,
    },
    /// A stream entry only (`bus.publish` on Redis). The ledger adopts the delivery when it
    /// does anything but succeed.
    Stream {
        envelope: Arc<Envelope>,
        entry: EntryAddress,
    },
}

/// The address of a stream entry on Redis, as one consumer group was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryAddress {
    pub(crate) stream: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) id: Arc<str>,
}

impl EntryAddress {
    /// The text by which the ledger records the entry of a delivery. The group is not part
    /// of it: the delivery has its route.
    pub(crate) fn recorded(&self) -> String {
        recorded_entry(&self.stream, &self.id)
    }
}

impl Hash for EntryAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few entries of different streams share an id.
        self.id.hash(state);
    }
}

/// See [`EntryAddress::recorded`].
pub(crate) fn recorded_entry(stream: &str, id: &str) -> String {
    [stream, "|", id].concat()
}

/// A leased delivery, ready to run.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) envelope: Arc<Envelope>,
    /// The number of handler errors so far.
    pub(crate) attempts: u32,
    pub(crate) claim: Claim,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Finished. `committed` if the ledger has nothing left to record: the handler's own
    /// transaction did it, or the delivery is another worker's.
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

/// A claim and the end of its attempt.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) claim: Claim,
    pub(crate) outcome: Outcome,
}

/// Counts of one route that a transport has beside the ledger's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Deliveries that wait on streams.
    pub(crate) pending: u64,
    /// Deliveries on streams that a worker holds.
    pub(crate) leased: u64,
    /// Finished events that were on a stream only.
    pub(crate) done: u64,
    /// Deliveries that the ledger counts as leased and that are counted above instead.
    pub(crate) handed: u64,
}

/// The position of a reader in the history of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) seq: i64,
    /// The last entry read, by stream.
    pub(crate) streams: BTreeMap<String, String>,
}
