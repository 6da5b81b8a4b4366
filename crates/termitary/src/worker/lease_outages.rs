//! An outage stops many lanes at the same moment: one log line names them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::error::Error;
use crate::lock::Mutex;

/// Time for which subscriptions are gathered for one line.
const GATHER: Duration = Duration::from_millis(100);

/// Subscriptions that the next lines will name, by the error that stops their lanes;
/// `None` if they lease again.
#[derive(Default)]
pub(super) struct LeaseOutages(Mutex<HashMap<Option<String>, Vec<String>>>);

impl LeaseOutages {
    /// Adds a subscription. Returns whether it is the first for its line.
    fn add(&self, error: Option<String>, subscription: &str) -> bool {
        let mut gathered = self.0.lock();
        let subscriptions = gathered.entry(error).or_default();
        subscriptions.push(subscription.to_owned());
        subscriptions.len() == 1
    }

    fn log(&self, error: Option<String>) {
        let subscriptions = self.0.lock().remove(&error).unwrap_or_default().join(", ");
        if let Some(error) = error {
            tracing::warn!(%subscriptions, %error, "cannot lease; trying again");
        } else {
            tracing::info!(%subscriptions, "leasing again");
        }
    }
}

/// Logs soon that a lane cannot lease any more, or can again.
pub(super) fn log_soon<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    subscription: &str,
    error: Option<&Error>,
) {
    let error = error.map(|error| format!("{error:?}"));
    if core.lease_outages.add(error.clone(), subscription) {
        let core = Arc::clone(core);
        core.tasks.clone().spawn(async move {
            let _ = tokio::time::timeout(GATHER, core.stop.cancelled()).await;
            core.lease_outages.log(error);
        });
    }
}
