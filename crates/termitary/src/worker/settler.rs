//! Settlements in batches: what ends while one batch is written shares the
//! next. A settlement is tried until the broker takes it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::broker::{Broker, Settlement};
use crate::fault;

/// The most settlements of one batch.
const BATCH: usize = 512;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

pub(super) struct Settler {
    queue: mpsc::UnboundedSender<Item>,
}

type Item = (Settlement, oneshot::Sender<bool>);

impl Settler {
    pub(super) fn start(broker: Broker) -> Self {
        // Bounded by the claims that lanes hold: an attempt keeps its claim
        // until its settlement is answered.
        let (queue, items) = mpsc::unbounded_channel();
        tokio::spawn(run(broker, items));
        Self { queue }
    }

    /// Settles one delivery; returns when the broker has it.
    pub(super) async fn settle(&self, settlement: Settlement) {
        let (reply, answer) = oneshot::channel();
        let (event, route) = (settlement.claim.event, settlement.claim.route);
        if self.queue.send((settlement, reply)).is_ok() && matches!(answer.await, Ok(false)) {
            metrics::counter!("termitary_settlements_lost_total").increment(1);
            tracing::warn!(event.id = %event, route, "settled too late: the lease was lost, nothing was changed");
        }
    }
}

async fn run(broker: Broker, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // What is about to end joins this batch instead of waiting for it.
        tokio::task::yield_now().await;
        if items.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        fault::point!("settle.before", no error);
        let (settlements, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let held = settle_until_taken(&broker, settlements).await;
        fault::point!("settle.after", no error);
        for (reply, held) in replies.into_iter().zip(held) {
            // An attempt that was dropped needs no answer.
            let _ = reply.send(held);
        }
    }
}

async fn settle_until_taken(broker: &Broker, settlements: Vec<Settlement>) -> Vec<bool> {
    let mut backoff = FIRST_BACKOFF;
    loop {
        match broker.transport().settle(settlements.clone()).await {
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
