//! The end of a transaction that published: its events are recorded with the commit
//! and, if a carrier lives, handed to it, which brings them to their handlers.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::{lease_and_commit, publish_and_commit};
use crate::draft::Draft;
use crate::engine::Conn;
use crate::engine::sqlite::{AfterDisk, CommitHook, Work};
use crate::error::Error;
use crate::event::Envelope;
use crate::lock::RwLock;

/// Committed events, each by its `seq` and leased to the relay, on their way to
/// every subscription that they reach.
pub(crate) struct Committed {
    pub(crate) events: Vec<(i64, Envelope)>,
    /// The terms of their lease.
    pub(crate) trust: Trust,
}

/// The events that a carrier may take, and for how long.
pub(crate) struct Trust {
    /// The names of the events, and how many subscriptions each has.
    pub(crate) reached: Arc<HashMap<String, u64>>,
    /// The end of the lease. After it the ledger looks after events without a report.
    pub(crate) until_us: i64,
}

/// Brings committed events to where they are handled. Events that it does not bring
/// there are left to the ledger.
#[async_trait]
pub(crate) trait Carrier: Send + Sync {
    /// Returns the terms of a lease, from what `conn` shows; `None` if the carrier
    /// takes nothing now. Work that must come first is spawned on `runtime`.
    async fn trust(&self, conn: &mut Conn, runtime: &Handle) -> Result<Option<Trust>, Error>;

    /// Takes committed events; [`Carrier::carry`] must run afterwards.
    fn load(&self, committed: Committed);

    /// Brings the loaded events to their place.
    async fn carry(self: Arc<Self>);

    /// Returns when nothing is on its way any more.
    async fn rest(self: Arc<Self>);
}

/// Records the events of transactions with their commit.
pub(super) struct Publisher {
    source: String,
    carrier: RwLock<Option<Weak<dyn Carrier>>>,
}

impl Publisher {
    pub(super) fn new(source: String) -> Self {
        Self {
            source,
            carrier: RwLock::default(),
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn set_carrier(&self, carrier: Weak<dyn Carrier>) {
        *self.carrier.write() = Some(carrier);
    }

    /// Hands nothing more to the carrier, and waits for what it has.
    pub(super) async fn close(&self) {
        let carrier = self.carrier.write().take();
        if let Some(carrier) = carrier.and_then(|carrier| carrier.upgrade()) {
            carrier.rest().await;
        }
    }

    fn carrier(&self) -> Option<Arc<dyn Carrier>> {
        self.carrier.read().as_ref()?.upgrade()
    }
}

/// The drafts of every turn, each of which left a `Vec<Draft>`.
fn drafts(left: Vec<Work>) -> Vec<Draft> {
    let mut each = left
        .into_iter()
        .filter_map(|work| work.downcast::<Vec<Draft>>().ok());
    let mut drafts = each.next().map(|first| *first).unwrap_or_default();
    drafts.extend(each.flat_map(|more| *more));
    drafts
}

#[cfg(feature = "postgres")]
impl Publisher {
    /// Records the drafts in an open transaction on PostgreSQL. Returns what is to be done
    /// once it has committed.
    pub(super) async fn record(
        &self,
        conn: &mut Conn,
        drafts: Vec<Draft>,
    ) -> Result<Option<AfterDisk>, Error> {
        let runtime = Handle::current();
        let carrier = self.carrier();
        if let Some(carrier) = carrier
            && let Some(trust) = carrier.trust(conn, &runtime).await?
        {
            let committed =
                super::on_postgres::lease(conn.postgres()?, &self.source, drafts, trust).await?;
            return Ok(committed.map(|committed| -> AfterDisk {
                Box::new(move || {
                    carrier.load(committed);
                    runtime.spawn(carrier.carry());
                })
            }));
        }
        super::on_postgres::record(conn.postgres()?, &self.source, &drafts).await?;
        Ok(None)
    }
}

#[async_trait]
impl CommitHook for Publisher {
    async fn commit(
        &self,
        conn: &mut Conn,
        left: Vec<Work>,
        runtime: &Handle,
    ) -> Result<Option<AfterDisk>, Error> {
        let (source, drafts) = (&self.source, drafts(left));
        let carrier = self.carrier().filter(|_| !drafts.is_empty());
        if let Some(carrier) = carrier
            && let Some(trust) = carrier.trust(conn, runtime).await?
        {
            let committed = lease_and_commit(conn, source, drafts, trust).await?;
            let runtime = runtime.clone();
            return Ok(committed.map(|committed| -> AfterDisk {
                Box::new(move || {
                    carrier.load(committed);
                    runtime.spawn(carrier.carry());
                })
            }));
        }
        publish_and_commit(conn, source, &drafts).await?;
        Ok(None)
    }
}
