//! Who takes events on, right after their commit, to where they are handled.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use futures_util::future::BoxFuture;

use crate::event::Envelope;

/// Committed events, each by its `seq` and leased to the relay, on their way to
/// every subscription that they reach.
pub(crate) struct Cargo {
    pub(crate) events: Vec<(i64, Envelope)>,
    /// How many deliveries of theirs there are.
    pub(crate) deliveries: u64,
    /// Until when they are leased.
    pub(crate) until_us: i64,
}

/// On what terms a carrier is trusted with events.
pub(crate) struct Trust {
    /// If a worker was heard of since.
    pub(crate) live_since_us: i64,
    /// Until when: then the ledger looks after what it has not heard of.
    pub(crate) until_us: i64,
}

/// Takes committed events on. What it does not bring to its place is left to
/// the ledger.
pub(crate) trait Carrier: Send + Sync {
    /// `None`: it takes nothing now.
    fn trust(&self) -> Option<Trust>;

    /// Takes what is committed; [`Carrier::carry`] then has to be run.
    fn load(&self, cargo: Cargo);

    /// Brings what is loaded to its place.
    fn carry(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Returns when nothing is on its way any more.
    fn rest(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// The carrier of a database's events, while it lives.
#[derive(Default)]
pub(super) struct Slot(RwLock<Option<Weak<dyn Carrier>>>);

impl Slot {
    pub(super) fn set(&self, carrier: Weak<dyn Carrier>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(carrier);
    }

    pub(super) fn get(&self) -> Option<Arc<dyn Carrier>> {
        let carrier = self.0.read().unwrap_or_else(PoisonError::into_inner);
        carrier.as_ref()?.upgrade()
    }
}
