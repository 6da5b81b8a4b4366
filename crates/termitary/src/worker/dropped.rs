//! Subscriptions that were dropped while this worker ran them. Nothing is
//! published for them any more; their lanes stop, and the log names them until
//! the worker does.

use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::lane::Lane;
use crate::clock::minutes;
use crate::error::Error;
use crate::ledger;

/// Interval at which the log names them again.
const AGAIN: Duration = minutes(1);

/// When the log named them last.
#[derive(Default)]
pub(super) struct Dropped(Option<Instant>);

impl Dropped {
    /// Stops the lanes of subscriptions that the ledger no longer has.
    pub(super) async fn look<S>(&mut self, core: &Core<S>, lanes: &[Lane<S>]) -> Result<(), Error> {
        let registered = ledger::registered(core.broker.db()).await?;
        let (mut gone, mut new) = (Vec::new(), false);
        for lane in lanes {
            if !registered.contains(&lane.route.id) {
                new |= !lane.dropped.is_cancelled();
                lane.dropped.cancel();
                gone.push(&*lane.route.name);
            }
        }
        let due = self.0.is_none_or(|last| last.elapsed() >= AGAIN);
        if new || (due && !gone.is_empty()) {
            self.0 = Some(Instant::now());
            tracing::error!(
                worker.id = %core.id,
                subscriptions = gone.join(", "),
                "dropped while this worker ran them: it runs them no more; remove them from its code, or restart it to register them again"
            );
        }
        Ok(())
    }
}

/// The names of the subscriptions of this worker.
pub(super) fn running<S>(lanes: &[Lane<S>]) -> Vec<&str> {
    let running = lanes.iter().filter(|lane| !lane.dropped.is_cancelled());
    running.map(|lane| &*lane.route.name).collect()
}
