//! Settles in batches: attempts that end while one batch is written share the next. A
//! batch is tried until the broker takes it.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::renewal::Tracked;
use crate::broker::Broker;
use crate::delivery::Settlement;
use crate::error::Error;
use crate::fault;
use crate::guard;
use crate::outage::Outage;

/// The most settlements of one batch.
const BATCH: usize = 512;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Settler {
    queue: mpsc::UnboundedSender<(Settlement, Kept)>,
}

/// Kept by an attempt until its settlement is written: its lease is renewed, its permit
/// is taken, and the worker does not stop.
pub(super) struct Kept {
    pub(super) _lease: Tracked,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
    pub(super) _task: TaskTrackerToken,
    /// Closed with the rest, for a caller that waits.
    pub(super) _waiter: Option<oneshot::Sender<()>>,
}

impl Settler {
    pub(super) fn start(broker: Broker) -> Self {
        // Bounded by the permits of the lanes: each is free again only after its
        // settlement.
        let (queue, items) = mpsc::unbounded_channel();
        tokio::spawn(settle_batches(broker, items));
        Self { queue }
    }

    /// Settles one delivery, together with others.
    pub(super) fn settle(&self, settlement: Settlement, kept: Kept) {
        // The receiver lives as long as the runtime.
        let _ = self.queue.send((settlement, kept));
    }
}

async fn settle_batches(broker: Broker, mut items: mpsc::UnboundedReceiver<(Settlement, Kept)>) {
    let outage = Outage::with_waits("settling", FIRST_WAIT, LAST_WAIT);
    loop {
        // Attempts that are about to end join this batch.
        tokio::task::yield_now().await;
        let mut batch = Vec::with_capacity(BATCH);
        if items.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        fault::point!("settle.before", no error);
        let (settlements, _kept): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let held = settle_until_taken(&broker, &settlements, &outage).await;
        fault::point!("settle.after", no error);
        for (settlement, held) in settlements.iter().zip(held) {
            if !held {
                log_too_late(settlement);
            }
        }
    }
}

fn log_too_late(settlement: &Settlement) {
    let claim = &settlement.claim;
    metrics::counter!("termitary_settlements_lost_total").increment(1);
    tracing::warn!(event.id = %claim.event, route = claim.route, "settled too late: the lease was lost, nothing was changed");
}

async fn settle_until_taken(
    broker: &Broker,
    settlements: &[Settlement],
    outage: &Outage,
) -> Vec<bool> {
    loop {
        let settled = guard::future(broker.transport().settle(settlements)).await;
        match settled.unwrap_or_else(|panicked| Err(Error::internal(panicked.to_string()))) {
            Ok(held) => {
                outage.over();
                return held;
            }
            Err(error) => tokio::time::sleep(outage.failed(&error)).await,
        }
    }
}
