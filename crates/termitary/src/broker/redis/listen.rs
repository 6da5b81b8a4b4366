//! Hears broadcasts of every process.

use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisError;
use redis::aio::{PubSubSink, PubSubStream};
use serde::Deserialize;
use tokio::sync::broadcast::WeakSender;

use super::link::Link;
use super::outage::Outage;
use crate::broadcast::Message;

/// How often a silent connection is asked whether it still lives.
pub(super) const PING: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Wired {
    name: String,
    data: String,
}

/// Listens and reconnects until the last handle on the broadcasts is gone.
pub(super) async fn run(link: Link, heard: WeakSender<Message>) {
    let outage = Outage::of("listening for broadcasts");
    let mut wait = Duration::from_millis(100);
    while heard.upgrade().is_some() {
        match open(&link).await {
            Ok((sink, stream)) => {
                wait = Duration::from_millis(100);
                outage.over();
                hear(sink, stream, &heard).await;
            }
            Err(error) => drop(outage.failed(&error.into())),
        }
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

async fn open(link: &Link) -> Result<(PubSubSink, PubSubStream), RedisError> {
    let mut pubsub = timed(link.client().get_async_pubsub()).await?;
    timed(pubsub.subscribe(link.keys().broadcast())).await?;
    Ok(pubsub.split())
}

/// Ends when the connection does.
async fn hear(mut sink: PubSubSink, mut stream: PubSubStream, heard: &WeakSender<Message>) {
    loop {
        tokio::select! {
            message = stream.next() => {
                let (Some(message), Some(sender)) = (message, heard.upgrade()) else { return };
                if let Ok(Wired { name, data }) = serde_json::from_slice(message.get_payload_bytes()) {
                    // Nobody listening now is not an error.
                    let _ = sender.send(Message { name, data });
                }
            }
            () = tokio::time::sleep(PING) => {
                if heard.upgrade().is_none() || timed(sink.ping::<redis::Value>()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Pub/sub connections have no deadlines of their own.
pub(super) async fn timed<T>(
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
