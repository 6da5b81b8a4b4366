//! Settlements in batches: attempts that end while one batch is written share the next. A
//! settlement is retried until the broker accepts it.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::renewal::Tracked;
use crate::broker::Broker;
use crate::delivery::Settlement;
use crate::error::Error;
use crate::fault;
use crate::guard;

/// The most settlements of one batch.
const BATCH: usize = 512;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

pub(super) struct Settler {
    queue: mpsc::UnboundedSender<Ended>,
}

/// An attempt that ended, and its resources until its settlement is real.
struct Ended {
    settlement: Settlement,
    held: Held,
}

/// Its lease is renewed, its place is taken and the worker does not stop
/// while this lives.
pub(super) struct Held {
    pub(super) _lease: Tracked,
    pub(super) _claim: Option<OwnedSemaphorePermit>,
    pub(super) _task: TaskTrackerToken,
    /// Dropped with the rest, to signal the waiting caller.
    pub(super) _waiter: Option<oneshot::Sender<()>>,
}

impl Settler {
    pub(super) fn start(broker: Broker) -> Self {
        // Bounded by the claims of the lanes: a claim is free again only when its settlement has
        // returned.
        let (queue, items) = mpsc::unbounded_channel();
        tokio::spawn(run(broker, items));
        Self { queue }
    }

    /// Settles one delivery, together with others.
    pub(super) fn settle(&self, settlement: Settlement, held: Held) {
        let ended = Ended { settlement, held };
        // The other end lives as long as the runtime.
        let _ = self.queue.send(ended);
    }
}

async fn run(broker: Broker, mut items: mpsc::UnboundedReceiver<Ended>) {
    loop {
        // Attempts that are about to end join this batch instead of waiting for it.
        tokio::task::yield_now().await;
        let mut batch = Vec::with_capacity(BATCH);
        if items.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        settle(&broker, batch).await;
    }
}

async fn settle(broker: &Broker, batch: Vec<Ended>) {
    fault::point!("settle.before", no error);
    let ended = batch.into_iter();
    // The resources of each, until the end of this function.
    let (settlements, _held): (Vec<_>, Vec<_>) =
        ended.map(|ended| (ended.settlement, ended.held)).unzip();
    let answers = settle_until_taken(broker, &settlements).await;
    fault::point!("settle.after", no error);
    for (settlement, held) in settlements.iter().zip(answers) {
        if !held {
            too_late(settlement);
        }
    }
}

fn too_late(settlement: &Settlement) {
    let claim = &settlement.claim;
    metrics::counter!("termitary_settlements_lost_total").increment(1);
    tracing::warn!(event.id = %claim.event, route = claim.route, "settled too late: the lease was lost, nothing was changed");
}

async fn settle_until_taken(broker: &Broker, settlements: &[Settlement]) -> Vec<bool> {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let settled = guard::future(broker.transport().settle(settlements)).await;
        match settled.unwrap_or_else(|panicked| Err(Error::internal(panicked.to_string()))) {
            Ok(held) => return held,
            Err(error) => {
                if backoff == FIRST_BACKOFF {
                    tracing::warn!(error = ?error, deliveries = settlements.len(), "cannot settle; trying again");
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }
}
