//! Logs when Redis becomes unreachable for an API process, and when it is back. An API
//! works without Redis: nothing else in it would notice.

use std::time::Duration;

use termitary::Broker;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The pause between two pings.
const EVERY: Duration = Duration::from_secs(2);

/// Pings the broker until `stop`.
pub(super) async fn watch(broker: Broker, stop: CancellationToken) {
    let mut down_since = None;
    loop {
        let ping = tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => broker.ping().await,
        };
        match (ping, down_since) {
            (Err(error), None) => {
                down_since = Some(Instant::now());
                tracing::warn!(error = ?error, "Redis is unreachable: events wait in the database, and live streams are late");
            }
            (Ok(()), Some(since)) => {
                down_since = None;
                let seconds = Instant::now().duration_since(since).as_secs();
                tracing::info!(seconds, "Redis is reachable again");
            }
            _ => {}
        }
    }
}
