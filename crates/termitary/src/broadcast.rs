//! Messages to every live process: at most once each, not stored.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::db::Db;
use crate::error::Error;

/// How far a listener may fall behind before it misses messages.
const BUFFER: usize = 1024;
const POLL: Duration = Duration::from_millis(50);
/// How long a message stays for other processes to see.
const KEEP_US: i64 = 60_000_000;

/// One broadcast message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The event's wire name.
    pub name: String,
    /// The payload's JSON.
    pub data: String,
}

/// Sends and hears broadcasts; cheap to clone.
#[derive(Clone)]
pub struct Broadcasts(Arc<Inner>);

struct Inner {
    wire: Wire,
    heard: OnceLock<broadcast::Sender<Message>>,
    sent: tokio::sync::Notify,
}

enum Wire {
    Sql(Db),
    #[cfg(feature = "redis")]
    Redis(crate::broker::redis::Link),
}

impl Broadcasts {
    pub(crate) fn sql(db: Db) -> Self {
        Self::over(Wire::Sql(db))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redis(link: crate::broker::redis::Link) -> Self {
        Self::over(Wire::Redis(link))
    }

    fn over(wire: Wire) -> Self {
        Self(Arc::new(Inner {
            wire,
            heard: OnceLock::new(),
            sent: tokio::sync::Notify::new(),
        }))
    }

    pub(crate) async fn send(&self, name: &str, data: &str) -> Result<(), Error> {
        match &self.0.wire {
            Wire::Sql(db) => send_sql(db, name, data).await?,
            #[cfg(feature = "redis")]
            Wire::Redis(link) => link.broadcast(name, data).await?,
        }
        self.0.sent.notify_waiters();
        Ok(())
    }

    /// Hears every broadcast from now on, of this process too. A receiver that
    /// falls more than 1,024 messages behind is told so and goes on with the
    /// oldest that are left. Call it within a tokio runtime.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        let mut first = false;
        let sender = self.0.heard.get_or_init(|| {
            first = true;
            broadcast::channel(BUFFER).0
        });
        let receiver = sender.subscribe();
        if first {
            // One listener task for the whole process; it ends with the last handle.
            let inner = Arc::downgrade(&self.0);
            match &self.0.wire {
                Wire::Sql(db) => drop(tokio::spawn(listen_sql(inner, db.clone(), sender.clone()))),
                #[cfg(feature = "redis")]
                Wire::Redis(link) => drop(tokio::spawn(link.clone().listen(sender.clone()))),
            }
        }
        receiver
    }
}

async fn send_sql(db: &Db, name: &str, data: &str) -> Result<(), Error> {
    let now = db.clock().now_us();
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO termitary_broadcasts (time_us, name, data) VALUES ($1, $2, $3)")
        .bind(now)
        .bind(name)
        .bind(data)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM termitary_broadcasts WHERE seq IN (SELECT seq FROM termitary_broadcasts WHERE time_us < $1 ORDER BY seq LIMIT 100)")
        .bind(now - KEEP_US)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

async fn listen_sql(inner: std::sync::Weak<Inner>, db: Db, sender: broadcast::Sender<Message>) {
    let mut seq: Option<i64> = None;
    while let Some(live) = inner.upgrade() {
        match poll_sql(&db, seq).await {
            Ok((next, messages)) => {
                seq = Some(next);
                for message in messages {
                    // Nobody listening now is not an error.
                    let _ = sender.send(message);
                }
            }
            Err(error) => tracing::warn!(error = ?error, "cannot read broadcasts"),
        }
        tokio::select! {
            () = live.sent.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn poll_sql(db: &Db, after: Option<i64>) -> Result<(i64, Vec<Message>), Error> {
    let Some(after) = after else {
        let last = sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM termitary_broadcasts")
            .fetch_one(db.reader())
            .await?;
        return Ok((last, Vec::new()));
    };
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT seq, name, data FROM termitary_broadcasts WHERE seq > $1 ORDER BY seq LIMIT 500",
    )
    .bind(after)
    .fetch_all(db.reader())
    .await?;
    let next = rows.last().map_or(after, |row| row.0);
    Ok((
        next,
        rows.into_iter()
            .map(|(_, name, data)| Message { name, data })
            .collect(),
    ))
}
