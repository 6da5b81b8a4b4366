//! Messages to every live process: at most once each, not stored.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};

use crate::clock::{forward, minutes};
use crate::db::{Conn, Db};
use crate::error::Error;
use crate::event::{MAX_DATA_BYTES, valid_name};
use crate::ledger::broadcasts as rows;
use crate::lock::Mutex;

/// Number of messages by which a listener may fall behind before it misses some.
const BUFFER: usize = 1024;
/// Interval at which other processes' messages are noticed.
const POLL: Duration = Duration::from_millis(50);
/// Pause after the database failed.
const RETRY: Duration = Duration::from_millis(500);
/// Minimum time for which other processes can see a message.
const KEEP: Duration = minutes(1);

/// One broadcast message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The event's wire name.
    pub name: String,
    /// The payload's JSON.
    pub data: String,
}

impl Message {
    /// Fails if the name is not an event's or the payload is too large, because listeners may pass
    /// both on unchecked.
    pub(crate) fn checked(name: String, data: String) -> Result<Self, Error> {
        if !valid_name(&name) {
            return Err(Error::invalid(format!(
                "a broadcast needs a name such as todos.created, not one of {} bytes with other characters than lower-case letters, digits, dots, - and _",
                name.len()
            )));
        }
        if data.len() > MAX_DATA_BYTES {
            return Err(Error::invalid(format!(
                "the broadcast {name} is larger than {MAX_DATA_BYTES} bytes: it has {}",
                data.len()
            )));
        }
        Ok(Self { name, data })
    }
}

/// Sends and hears broadcasts; cheap to clone.
#[derive(Clone)]
pub struct Broadcasts(Arc<Inner>);

struct Inner {
    wire: Wire,
    heard: broadcast::Sender<Message>,
    /// True while a task receives messages from Redis.
    listening: Mutex<bool>,
    /// Rung when this process sends.
    sent: Arc<Notify>,
    /// The last row that this process sent: new listeners start after it.
    last_sent: AtomicI64,
    pruning: Mutex<Pruning>,
}

/// Which messages are old: those that were there [`KEEP`] ago, by a clock that only
/// runs forward. Most messages are sent without a look at older ones.
#[derive(Default)]
struct Pruning {
    /// The newest message at an earlier instant.
    mark: Option<(i64, Instant)>,
    /// Messages up to this row are old and not deleted yet.
    old: Option<i64>,
}

impl Pruning {
    /// Up to which row a page of messages is to be deleted, if any is.
    fn old(&mut self) -> Option<i64> {
        if let Some((seq, at)) = self.mark
            && forward().saturating_duration_since(at) >= KEEP
        {
            self.mark = None;
            self.old = Some(seq);
        }
        self.old
    }

    /// The message `seq` was sent, and `deleted` old messages were deleted.
    fn sent(&mut self, seq: i64, deleted: u64) {
        if deleted < rows::PAGE {
            self.old = None;
        }
        self.mark.get_or_insert_with(|| (seq, forward()));
    }
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
            heard: broadcast::channel(BUFFER).0,
            listening: Mutex::new(false),
            sent: Arc::default(),
            last_sent: AtomicI64::new(0),
            pruning: Mutex::default(),
        }))
    }

    pub(crate) async fn send(&self, name: &str, data: &str) -> Result<(), Error> {
        let Message { name, data } = &Message::checked(name.to_owned(), data.to_owned())?;
        match &self.0.wire {
            Wire::Sql(db) => {
                let seq = self.0.send_sql(db, name, data).await?;
                self.0.last_sent.fetch_max(seq, Ordering::AcqRel);
                self.0.sent.notify_waiters();
                Ok(())
            }
            #[cfg(feature = "redis")]
            Wire::Redis(link) => link.broadcast(name, data).await,
        }
    }

    /// Hears every broadcast from now on, of this process too; over Redis, from
    /// when the connection that listens stands. A receiver that falls more than
    /// 1,024 messages behind is told so and goes on with the oldest that are
    /// left. Call it within a tokio runtime.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        let mut listening = self.0.listening.lock();
        let receiver = self.0.heard.subscribe();
        if !*listening {
            *listening = true;
            // One task for the whole process. It knows the rest by weak
            // reference: it ends with the last handle.
            match &self.0.wire {
                Wire::Sql(db) => {
                    let listener = Listener {
                        inner: Arc::downgrade(&self.0),
                        db: db.clone(),
                        sent: Arc::clone(&self.0.sent),
                    };
                    let start = Start {
                        after: self.0.last_sent.load(Ordering::Acquire),
                        since_us: db.clock().now_us(),
                    };
                    drop(tokio::spawn(listener.keep_listening(start)));
                }
                #[cfg(feature = "redis")]
                Wire::Redis(link) => drop(tokio::spawn(link.clone().listen(self.0.heard.clone()))),
            }
        }
        receiver
    }
}

impl Inner {
    /// Records one message; returns its row.
    async fn send_sql(&self, db: &Db, name: &str, data: &str) -> Result<i64, Error> {
        let old = self.pruning.lock().old();
        let mut tx = db.begin_own().await?;
        let seq = rows::send(&mut tx, name, data, db.clock().now_us()).await?;
        let mut deleted = 0;
        if let Some(old) = old {
            deleted = rows::prune(&mut tx, old, rows::PAGE).await?;
        }
        tx.commit().await?;
        self.pruning.lock().sent(seq, deleted);
        db.announce();
        Ok(seq)
    }

    /// Returns whether there is a listener; if not, the receiving task ends.
    fn is_heard(&self) -> bool {
        let mut listening = self.listening.lock();
        *listening = self.heard.receiver_count() > 0;
        *listening
    }
}

/// The start of a listener, whenever it first looks: after the messages that this process had sent,
/// and those that others had sent before this instant.
#[derive(Clone, Copy)]
struct Start {
    after: i64,
    since_us: i64,
}

/// Reads the messages of every process on the file, while there is a listener.
struct Listener {
    inner: Weak<Inner>,
    db: Db,
    sent: Arc<Notify>,
}

impl Listener {
    async fn keep_listening(self, start: Start) {
        let mut seq = None;
        while let Err(error) = self.listen(start, &mut seq).await {
            tracing::warn!(error = ?error, "cannot read broadcasts; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// On one connection: `data_version` is comparable there only. Between two
    /// commits of whomever it is all that is asked for.
    async fn listen(&self, start: Start, seq: &mut Option<i64>) -> Result<(), Error> {
        let mut conn = self.db.read().await?;
        let mut seen = None;
        loop {
            let sent = self.sent.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            if !self.inner.upgrade().is_some_and(|inner| inner.is_heard()) {
                return Ok(());
            }
            let version = self.db.version(&mut conn).await?;
            if seen != Some(version) {
                self.pass_on(&mut conn, start, seq).await?;
                seen = Some(version);
            }
            tokio::select! {
                () = sent => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn pass_on(
        &self,
        conn: &mut Conn,
        start: Start,
        seq: &mut Option<i64>,
    ) -> Result<(), Error> {
        let mut at = match *seq {
            Some(seq) => seq,
            None => rows::before(&self.db, start.after, start.since_us).await?,
        };
        loop {
            *seq = Some(at);
            let rows = rows::after(&self.db, conn, at).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            at = last.0;
            let Some(inner) = self.inner.upgrade() else {
                return Ok(());
            };
            for (seq, name, data) in rows {
                // Values that another program may have written there.
                let written = name.text().zip(data.text());
                let Some(message) =
                    written.and_then(|(name, data)| Message::checked(name, data).ok())
                else {
                    tracing::warn!(
                        row = seq,
                        "left out a row among the broadcasts that is none"
                    );
                    continue;
                };
                // Nobody listening now is not an error.
                let _ = inner.heard.send(message);
            }
        }
    }
}

#[cfg(all(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::clock::secs;
    use crate::testing::TestDb;

    async fn next(receiver: &mut broadcast::Receiver<Message>) -> String {
        let message = tokio::time::timeout(secs(20), receiver.recv()).await;
        message.unwrap().unwrap().data
    }

    /// Another process on the same file: its own connections, its own handle.
    async fn neighbour(db: &TestDb) -> Broadcasts {
        let url = format!("sqlite://{}", db.db().place());
        let options = crate::db::Options::default().clock(db.clock().clone());
        Broadcasts::sql(Db::open_with(&url, options).await.unwrap())
    }

    #[tokio::test]
    async fn what_is_sent_right_after_subscribing_is_heard_and_nothing_from_before() {
        let db = TestDb::open().await;
        let (here, there) = (Broadcasts::sql(db.db().clone()), neighbour(&db).await);
        here.send("a", "before").await.unwrap();
        there.send("a", "before").await.unwrap();
        db.clock().advance(secs(1));
        here.send("a", "just before").await.unwrap();
        // The listener gets no connection before all is sent.
        let mut busy = Vec::new();
        for _ in 0..crate::engine::sqlite::READERS {
            busy.push(db.db().read().await.unwrap());
        }
        let mut receiver = here.subscribe();
        there.send("a", "one").await.unwrap();
        here.send("a", "two").await.unwrap();
        drop(busy);
        assert_eq!(next(&mut receiver).await, "one");
        assert_eq!(next(&mut receiver).await, "two");
    }

    #[tokio::test]
    async fn nobody_looks_while_nobody_hears_and_a_later_listener_hears_again() {
        let db = TestDb::open().await;
        let (here, there) = (Broadcasts::sql(db.db().clone()), neighbour(&db).await);
        drop(here.subscribe());
        while *here.0.listening.lock() {
            tokio::time::sleep(POLL).await;
        }
        there.send("a", "unheard").await.unwrap();
        db.clock().advance(secs(1));
        let mut receiver = here.subscribe();
        there.send("a", "heard").await.unwrap();
        assert_eq!(next(&mut receiver).await, "heard");
        drop(here);
        assert!(receiver.recv().await.is_err(), "the last handle is gone");
    }

    async fn kept(db: &TestDb) -> (i64, i64) {
        sqlx::query_as("SELECT COUNT(*), COALESCE(MIN(seq), 0) FROM termitary_broadcasts")
            .fetch_one(&mut *db.db().read().await.unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn messages_are_deleted_after_a_minute_in_pages_and_not_before() {
        let db = TestDb::open().await;
        let here = Broadcasts::sql(db.db().clone());
        for _ in 0..150 {
            here.send("a", "early").await.unwrap();
        }
        crate::clock::ahead::advance(KEEP / 2);
        // A wall clock that jumps makes nothing old.
        db.clock().advance(crate::clock::days(1));
        here.send("a", "later").await.unwrap();
        assert_eq!(kept(&db).await, (151, 1));
        crate::clock::ahead::advance(KEEP / 2);
        // The mark is the first message; the next one covers the rest.
        here.send("a", "later").await.unwrap();
        assert_eq!(kept(&db).await, (151, 2));
        crate::clock::ahead::advance(KEEP);
        here.send("a", "last").await.unwrap();
        assert_eq!(kept(&db).await, (52, 102));
        here.send("a", "last").await.unwrap();
        assert_eq!(kept(&db).await, (2, 153));
        // With nothing old nothing is looked for.
        here.send("a", "last").await.unwrap();
        assert_eq!(here.0.pruning.lock().old(), None);
    }
}
