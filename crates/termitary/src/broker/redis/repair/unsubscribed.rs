//! Streams that nobody subscribes to. Housekeeping trims what registered
//! subscriptions have finished; of other streams it knows nothing. So whoever
//! publishes there also clears away what is old.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::redis::Redis;
use crate::broker::redis::wire::script;
use crate::error::Error;
use crate::ledger;

/// How often a process looks at one stream.
const EVERY: Duration = Duration::from_secs(30);
/// How long an entry stays that nobody is there to read: a subscription that
/// begins a moment after the publisher finds it.
const KEEP_MS: &str = "60000";

/// When this process last looked at which event's stream.
#[derive(Default)]
pub(crate) struct Looked(Mutex<HashMap<String, Instant>>);

impl Looked {
    /// Which of these it is time to look at; counts as a look.
    fn due<'a>(&self, events: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        // A map of instants is whole even after a panic.
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Clears the streams of these events where neither our ledger nor anybody on
/// Redis has a subscription. That it fails now and then does no harm.
pub(crate) async fn clear(redis: &Redis, events: impl Iterator<Item = &str>) {
    for event in redis.unread.due(events) {
        if let Err(error) = clear_one(redis, event).await {
            tracing::debug!(error = ?error, event, "cannot look whether anybody reads this stream");
        }
    }
}

async fn clear_one(redis: &Redis, event: &str) -> Result<(), Error> {
    // Ours may have lost its group, or never got one while Redis was away: it
    // is still owed what waits here.
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
