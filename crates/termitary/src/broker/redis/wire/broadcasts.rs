//! Hears broadcasts of every process.

use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisError;
use redis::aio::{PubSubSink, PubSubStream};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::WeakSender;
use uuid::Uuid;

use super::link::Link;
use crate::broker::broadcast::Message;
use crate::error::Error;
use crate::outage::{Outage, Tally};

/// Interval at which a silent connection is tested.
pub(crate) const PING: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(3);

/// A broadcast as it travels.
#[derive(Deserialize, Serialize)]
struct Wired {
    name: String,
    data: String,
    /// The ledger of the sender, because channels are shared by all databases of a server. Missing
    /// in messages of older versions.
    ledger: Option<Uuid>,
}

/// The message that carries a broadcast of this ledger.
pub(crate) fn wired(ledger: Uuid, name: &str, data: &str) -> String {
    serde_json::json!({ "name": name, "data": data, "ledger": ledger }).to_string()
}

/// Listens and reconnects until the last handle on the broadcasts is gone.
pub(crate) async fn listen(link: Link, heard: WeakSender<Message>) {
    let outage = Outage::of("listening for broadcasts");
    let unreadable = Tally::of("messages on the channel of broadcasts are none and are dropped");
    let mut wait = Duration::from_millis(100);
    while heard.upgrade().is_some() {
        match open(&link).await {
            Ok((sink, stream)) => {
                wait = Duration::from_millis(100);
                outage.over();
                hear(&link, sink, stream, &heard, &unreadable).await;
            }
            Err(error) => drop(outage.failed(&error)),
        }
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

async fn open(link: &Link) -> Result<(PubSubSink, PubSubStream), Error> {
    let mut pubsub = link.pubsub().await?;
    timed(pubsub.subscribe(link.keys().broadcast())).await?;
    Ok(pubsub.split())
}

/// Ends when the connection does.
async fn hear(
    link: &Link,
    mut sink: PubSubSink,
    mut stream: PubSubStream,
    heard: &WeakSender<Message>,
    unreadable: &Tally,
) {
    loop {
        tokio::select! {
            message = stream.next() => {
                let (Some(message), Some(sender)) = (message, heard.upgrade()) else { return };
                match read(link.ledger(), message.get_payload_bytes()) {
                    // Nobody listening now is not an error.
                    Ok(Some(message)) => drop(sender.send(message)),
                    Ok(None) => {}
                    Err(why) => unreadable.add(1, &why),
                }
            }
            () = tokio::time::sleep(PING) => {
                unreadable.tick();
                if heard.upgrade().is_none() || timed(sink.ping::<redis::Value>()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Parses a message; none if it is of another ledger. The error does not quote it.
fn read(ledger: Uuid, payload: &[u8]) -> Result<Option<Message>, Error> {
    let wired: Wired = serde_json::from_slice(payload)
        .map_err(|_| Error::invalid("it is not the JSON of a broadcast"))?;
    if wired.ledger.is_some_and(|from| from != ledger) {
        return Ok(None);
    }
    Message::checked(wired.name, wired.data).map(Some)
}

/// Pub/sub connections have no deadlines of their own.
pub(crate) async fn timed<T>(
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid::from_u128(7);

    fn said(payload: &str) -> Result<Option<Message>, Error> {
        read(OURS, payload.as_bytes())
    }

    #[test]
    fn a_broadcast_is_heard_where_it_is_ours_or_of_an_older_version() {
        let ours = said(&wired(OURS, "a.b", "{}"));
        assert!(
            ours.is_ok_and(|heard| heard.is_some_and(|it| it.name == "a.b" && it.data == "{}"))
        );
        let older = said(r#"{"name":"a.b","data":"{}"}"#);
        assert!(older.is_ok_and(|heard| heard.is_some()));
        let theirs = said(&wired(Uuid::from_u128(8), "a.b", "{}"));
        assert!(theirs.is_ok_and(|heard| heard.is_none()));
    }

    #[test]
    fn what_is_no_broadcast_is_refused_without_quoting_it() {
        let large = format!(r#"{{"name":"a.b","data":"{}"}}"#, "x".repeat(300_000));
        for bad in [
            "secret",
            r#"{"name":"secret\nevent","data":"{}"}"#,
            r#"{"name":"secret\u0000","data":"{}"}"#,
            r#"{"name":"","data":"{}"}"#,
            r#"{"name":"a.b"}"#,
            &large,
        ] {
            let Err(error) = said(bad) else {
                unreachable!("{bad:.50}")
            };
            let text = format!("{error:?}");
            assert!(!text.contains("secret") && text.len() < 200, "{text}");
        }
    }
}
