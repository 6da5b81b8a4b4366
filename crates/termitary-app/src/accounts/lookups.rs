//! Looking up sessions: requests that arrive at the same time share a statement.
//!
//! Every request looks up its token, and the way to the database's thread and back
//! costs more than the look-up itself. Nothing is cached: a request that arrives while
//! a statement runs waits for the next one, which starts after the request. A session
//! that ended before a request is therefore refused, whichever process ended it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use termitary::Db;
use tokio::sync::oneshot;

use super::store::sessions::{self as store, Limits, Live};

/// The most tokens of one statement.
const BATCH: usize = 256;

type Hash = [u8; 32];
type Reply = oneshot::Sender<Result<Option<Live>, SessionError>>;

/// A failure to read or write sessions. Every request that shared a statement gets a
/// copy.
#[derive(Clone, Debug)]
pub(crate) struct SessionError {
    /// True if a retry may help.
    pub(crate) unavailable: bool,
    pub(crate) text: String,
}

impl From<termitary::Error> for SessionError {
    fn from(error: termitary::Error) -> Self {
        Self {
            unavailable: error.is_unavailable(),
            text: format!("{error:?}"),
        }
    }
}

impl From<sqlx::Error> for SessionError {
    fn from(error: sqlx::Error) -> Self {
        Self {
            unavailable: matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut),
            text: error.to_string(),
        }
    }
}

impl From<anyhow::Error> for SessionError {
    fn from(error: anyhow::Error) -> Self {
        Self {
            unavailable: false,
            text: format!("{error:#}"),
        }
    }
}

/// The waiting look-ups. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lookups {
    db: Db,
    idle: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// True while a task runs statements; it ends when nothing waits.
    running: bool,
    waiting: Vec<(Hash, Reply)>,
}

impl Lookups {
    pub(super) fn new(db: Db, idle: Duration) -> Self {
        Self {
            db,
            idle,
            state: Arc::default(),
        }
    }

    /// The live session of the token with this hash.
    pub(super) async fn find(&self, hash: Hash) -> Result<Option<Live>, SessionError> {
        let (reply, result) = oneshot::channel();
        if self.enqueue(hash, reply) {
            let task = Task {
                lookups: self.clone(),
                finished: false,
            };
            // A task of its own: other requests need it if this one is cancelled.
            tokio::spawn(task.run());
        }
        result.await.unwrap_or_else(|_| {
            Err(SessionError {
                unavailable: true,
                text: "the task that looks up sessions ended".to_owned(),
            })
        })
    }

    /// Adds a look-up; returns true if no task runs.
    fn enqueue(&self, hash: Hash, reply: Reply) -> bool {
        let mut state = self.lock();
        state.waiting.push((hash, reply));
        !std::mem::replace(&mut state.running, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn query(&self, hashes: &[Hash]) -> Result<Vec<Live>, SessionError> {
        let mut reader = self.db.read().await?;
        // The time of the statement, not the time before the wait for a connection.
        let now = self.db.clock().now().as_microsecond();
        let limits = Limits {
            now,
            idle_since: now.saturating_sub(self.idle.as_micros() as i64),
        };
        let json = store::by_hashes(&mut reader, hashes, limits).await?;
        serde_json::from_str(&json).map_err(|error| SessionError {
            unavailable: false,
            text: format!("invalid sessions in the database: {error}"),
        })
    }
}

/// Runs statements until nothing waits. If it is dropped earlier, the waiting look-ups
/// fail.
struct Task {
    lookups: Lookups,
    finished: bool,
}

impl Task {
    async fn run(mut self) {
        while let Some(batch) = self.next() {
            let hashes: Vec<_> = batch.keys().copied().collect();
            let found = self.lookups.query(&hashes).await;
            reply(batch, &hashes, found);
        }
    }

    /// The waiting look-ups, grouped by token.
    fn next(&mut self) -> Option<HashMap<Hash, Vec<Reply>>> {
        let mut state = self.lookups.lock();
        if state.waiting.is_empty() {
            state.running = false;
            self.finished = true;
            return None;
        }
        let size = state.waiting.len().min(BATCH);
        let mut batch = HashMap::<Hash, Vec<Reply>>::with_capacity(size);
        for (hash, reply) in state.waiting.drain(..size) {
            batch.entry(hash).or_default().push(reply);
        }
        Some(batch)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.finished {
            let mut state = self.lookups.lock();
            state.running = false;
            state.waiting.clear();
        }
    }
}

fn reply(
    mut batch: HashMap<Hash, Vec<Reply>>,
    hashes: &[Hash],
    found: Result<Vec<Live>, SessionError>,
) {
    let rest = found.as_ref().map(|_| None).map_err(SessionError::clone);
    for live in found.unwrap_or_default() {
        let replies = hashes.get(live.index).and_then(|hash| batch.remove(hash));
        for reply in replies.into_iter().flatten() {
            // A cancelled request needs no reply.
            let _ = reply.send(Ok(Some(live.clone())));
        }
    }
    for reply in batch.into_values().flatten() {
        let _ = reply.send(rest.clone());
    }
}
