//! Clears streams without a subscription. Housekeeping trims only the streams of registered
//! subscriptions, so publishers to other streams clear old entries away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::redis::Redis;
use crate::broker::redis::wire::script;
use crate::error::Error;
use crate::ledger;
use crate::lock::Mutex;

/// Interval between two looks of a process at one stream.
const EVERY: Duration = Duration::from_secs(30);
/// Time for which an entry without readers stays, so that a subscription that starts a moment after
/// the publisher finds it.
const KEEP_MS: &str = "60000";

/// When this process last looked at which event's stream.
#[derive(Default)]
pub(crate) struct Looked(Mutex<HashMap<String, Instant>>);

impl Looked {
    /// Which of these it is time to look at; counts as a look.
    fn due<'a>(&self, events: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mut looked = self.0.lock();
        let now = Instant::now();
        let (mut due, mut last) = (Vec::new(), None);
        for event in events {
            // Mostly all of one call have one name.
            if last.replace(event) == Some(event) {
                continue;
            }
            if looked.get(event).is_none_or(|at| now - *at >= EVERY) {
                // Names that are published once must not pile up here.
                looked.retain(|_, at| now - *at < EVERY);
                looked.insert(event.to_owned(), now);
                due.push(event);
            }
        }
        due
    }
}

/// Clears the streams of these events if neither our ledger nor Redis has a subscription. An
/// occasional failure is harmless.
pub(crate) async fn clear(redis: &Redis, events: impl Iterator<Item = &str>) {
    for event in redis.unsubscribed.due(events) {
        if let Err(error) = clear_one(redis, event).await {
            tracing::debug!(error = ?error, event, "cannot look whether anybody reads this stream");
        }
    }
}

async fn clear_one(redis: &Redis, event: &str) -> Result<(), Error> {
    // Our subscription may have lost its group, or never got one during an outage of Redis: the
    // entries here are still owed to it.
    if ledger::has_route(&redis.db, event).await? {
        return Ok(());
    }
    let stream = redis.link.keys().main(event);
    let call = script::Call {
        script: &script::UNREAD,
        keys: vec![&stream],
        args: vec![KEEP_MS],
    };
    redis.link.shared().script(call).await.map(drop)
}
