//! The deliveries that the code of a registry would not handle.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::Inspect;
use crate::error::Error;
use crate::ledger::waiting::{self, Waiting};
use crate::registry::Registry;
use crate::subscription::Subscription;

/// The result of [`Inspect::check`].
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Readiness {
    /// The number of waiting and leased deliveries that were read.
    pub checked: u64,
    /// The deliveries that the code would not handle, by subscription and event.
    pub obstacles: Vec<Obstacle>,
}

/// Deliveries of one subscription and one event name that the code would not handle, for
/// one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Obstacle {
    /// The subscription of the deliveries.
    pub subscription: String,
    /// The name of their events.
    pub event: String,
    /// `unhandled`: the registry has no such subscription, and the deliveries wait.
    /// Otherwise they would be parked: `version`, `unknown-name`, `undecodable` or
    /// `unreadable`.
    pub reason: &'static str,
    /// The error of the example.
    pub error: String,
    /// The number of these deliveries.
    pub count: u64,
    /// The id of one of the events.
    pub example: Uuid,
}

impl Inspect {
    /// Decodes every waiting delivery of the ledger with the code of a registry, without
    /// running a handler, and returns those that this code would not handle: a gate before
    /// a deploy. Changes nothing, and works beside running workers. Events that travel on
    /// Redis alone (`bus.publish`) are not in the ledger and not checked.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the database cannot be read.
    pub async fn check<S>(&self, registry: &Registry<S>) -> Result<Readiness, Error> {
        let mut checked = 0;
        let mut found = BTreeMap::new();
        waiting::each(self.0.db(), |waiting| {
            checked += 1;
            if let Some((reason, error)) = refused(registry, &waiting) {
                note(&mut found, waiting, reason, error);
            }
        })
        .await?;
        Ok(Readiness {
            checked,
            obstacles: found.into_values().collect(),
        })
    }
}

/// By subscription, event and reason.
type Found = BTreeMap<(String, String, &'static str), Obstacle>;

fn note(found: &mut Found, waiting: Waiting, reason: &'static str, error: String) {
    let Waiting {
        subscription,
        id: example,
        name: event,
        ..
    } = waiting;
    let key = (subscription.clone(), event.clone(), reason);
    let obstacle = found.entry(key).or_insert(Obstacle {
        subscription,
        event,
        reason,
        error,
        count: 0,
        example,
    });
    obstacle.count += 1;
}

/// The reason why the code of the registry would not handle a delivery.
fn refused<S>(registry: &Registry<S>, waiting: &Waiting) -> Option<(&'static str, String)> {
    let name = &waiting.subscription;
    let of_name = |subscription: &&Subscription<S>| subscription.name == *name;
    let Some(subscription) = registry.subscriptions.iter().find(of_name) else {
        let error = format!("this program has no subscription `{}`", name.escape_debug());
        return Some(("unhandled", error));
    };
    match &waiting.event {
        Ok(event) => {
            let unfit = subscription.try_decode(event).err()?;
            Some((unfit.reason, unfit.error))
        }
        Err(unreadable) => Some(("unreadable", unreadable.clone())),
    }
}
