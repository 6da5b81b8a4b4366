//! Who takes events on, right after their commit, to where they are handled.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::conn::Conn;
use crate::error::Error;
use crate::event::Envelope;
use crate::lock::RwLock;

/// Committed events, each by its `seq` and leased to the relay, on their way to
/// every subscription that they reach.
pub(crate) struct Cargo {
    pub(crate) events: Vec<(i64, Envelope)>,
    /// What they were leased with.
    pub(crate) trust: Trust,
}

/// What a carrier is trusted with.
pub(crate) struct Trust {
    /// The names of the events, and how many subscriptions each has.
    pub(crate) reached: Arc<HashMap<String, u64>>,
    /// Until when: then the ledger looks after what it has not heard of.
    pub(crate) until_us: i64,
}

/// Takes committed events on. What it does not bring to its place is left to
/// the ledger.
#[async_trait]
pub(crate) trait Carrier: Send + Sync {
    /// What it is trusted with, as far as `conn` knows; `None`: it takes nothing
    /// now. What it has to do first it does on `runtime`.
    async fn trust(&self, conn: &mut Conn, runtime: &Handle) -> Result<Option<Trust>, Error>;

    /// Takes what is committed; [`Carrier::carry`] then has to be run.
    fn load(&self, cargo: Cargo);

    /// Brings what is loaded to its place.
    async fn carry(self: Arc<Self>);

    /// Returns when nothing is on its way any more.
    async fn rest(self: Arc<Self>);
}

/// The carrier of a database's events, while it lives.
#[derive(Default)]
pub(super) struct Slot(RwLock<Option<Weak<dyn Carrier>>>);

impl Slot {
    pub(super) fn set(&self, carrier: Weak<dyn Carrier>) {
        *self.0.write() = Some(carrier);
    }

    /// Nothing is trusted to it any more.
    pub(super) fn take(&self) -> Option<Arc<dyn Carrier>> {
        let mut carrier = self.0.write();
        carrier.take()?.upgrade()
    }

    pub(super) fn get(&self) -> Option<Arc<dyn Carrier>> {
        let carrier = self.0.read();
        carrier.as_ref()?.upgrade()
    }
}
