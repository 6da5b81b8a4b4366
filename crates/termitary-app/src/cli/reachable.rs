//! Logs when Redis becomes unreachable, and when it is back: for an API, which works without
//! Redis, so that nothing else in it would notice, and for `tail`, which waits.

use std::time::Duration;

use termitary::{Broker, Error};
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

/// Returns when `what` is reachable again after `error`. A command that ends by itself logs
/// nothing below a warning, so the end of the outage is one too.
pub(super) async fn wait_out(broker: &Broker, what: &str, error: &Error) {
    tracing::warn!(error = ?error, "{what} is unreachable: waiting until it is back");
    loop {
        sleep(EVERY).await;
        if broker.ping().await.is_ok() {
            tracing::warn!("{what} is reachable again");
            return;
        }
    }
}
