//! Logs events that affect many lanes at once, as one line with all their names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::error::Error;
use crate::lock::Mutex;

/// For so long it is heard which lanes it befalls.
const GATHER: Duration = Duration::from_millis(100);

/// Pending news: the reason why leasing fails, or that it works again, and the affected
/// subscriptions.
#[derive(Default)]
pub(super) struct News(Mutex<HashMap<Option<String>, Vec<String>>>);

impl News {
    /// Returns whether no task is about to log it yet.
    fn is_new(&self, what: Option<String>, subscription: &str) -> bool {
        let mut heard = self.0.lock();
        let whose = heard.entry(what).or_default();
        whose.push(subscription.to_owned());
        whose.len() == 1
    }

    fn tell(&self, what: Option<String>) {
        let whose = self.0.lock().remove(&what).unwrap_or_default();
        let subscriptions = whose.join(", ");
        if let Some(error) = what {
            tracing::warn!(%subscriptions, %error, "cannot lease; trying again");
        } else {
            tracing::info!(%subscriptions, "leasing again");
        }
    }
}

/// Tells that a lane cannot lease any more, or can again.
pub(super) fn of_lane<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    subscription: &str,
    error: Option<&Error>,
) {
    let what = error.map(|error| format!("{error:?}"));
    if core.news.is_new(what.clone(), subscription) {
        let told = Arc::clone(core);
        core.tasks.spawn(async move {
            let _ = tokio::time::timeout(GATHER, told.stop.cancelled()).await;
            told.news.tell(what);
        });
    }
}
