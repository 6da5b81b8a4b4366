//! Entries left on the streams of events that a subscription handled before it moved to
//! another event: they go back to the ledger, which decides what becomes of them, and the
//! subscription's group on that stream ends.

use super::{groups, takeover};
use crate::broker::redis::Redis;
use crate::broker::redis::wire::keys::StreamSet;
use crate::delivery::{Route, WorkerId};
use crate::error::Error;
use crate::ledger;

/// Clears one name after the other; each is forgotten when nothing of it is left.
pub(crate) async fn clear(redis: &Redis, worker: &WorkerId, former: &[Route]) -> Result<(), Error> {
    for one in former {
        let set: StreamSet = redis.link.keys().stream_set(one);
        // Its own stream, too: a process that did not know better sent there.
        for stream in &set.streams {
            takeover::clear(redis, worker, &set, stream).await?;
        }
        groups::remove(redis, &set).await?;
        ledger::forget_former(&redis.db, one).await?;
        tracing::info!(subscription = %set.group, events = ?one.events, "cleared the stream of an event that the subscription no longer handles");
    }
    Ok(())
}
