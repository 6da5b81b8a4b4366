//! Looking up sessions: requests that come at the same time share a statement.
//!
//! Every request asks whose token it brings, and the way to the database's thread and
//! back costs more than the look-up. Nothing is remembered from one statement to the
//! next: whoever asks while one runs waits for another, which begins after
//! the question. A session that ended before it is refused, whichever process ended it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use super::store::hands;
use crate::app::App;
use crate::http::ApiError;

/// The most questions of one statement.
const SHARE: usize = 256;

type Hash = [u8; 32];
type Reply = oneshot::Sender<Result<Option<Live>, ApiError>>;

/// The most sessions that are noted as used at once.
const NOTES: usize = 16;

/// Where the questions meet.
#[derive(Clone)]
pub(crate) struct Lookups {
    state: Arc<Mutex<State>>,
    notes: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            notes: Arc::new(Semaphore::new(NOTES)),
        }
    }
}

#[derive(Default)]
struct State {
    /// A task asks the database; it ends when nobody waits.
    asking: bool,
    waiting: Vec<(Hash, Reply)>,
}

/// A session that is not over, and its user.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Live {
    /// Which of the questions it answers.
    question: usize,
    pub(super) session: Uuid,
    pub(super) user: Uuid,
    pub(super) role: String,
    pub(super) last_used_us: i64,
}

impl Lookups {
    /// The live session of the token with this hash.
    pub(super) async fn find(&self, app: &App, hash: Hash) -> Result<Option<Live>, ApiError> {
        let (reply, answer) = oneshot::channel();
        if self.wait(hash, reply) {
            let asking = Asking {
                lookups: self.clone(),
                over: false,
            };
            // In a task of its own: others depend on it when this request is given up.
            tokio::spawn(asking.run(app.clone()));
        }
        answer
            .await
            .map_err(|_| ApiError::Busy("The service cannot do this now."))?
    }

    /// A place among those that note a session as used, if one is free.
    pub(super) fn place_to_note(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.notes).try_acquire_owned().ok()
    }

    /// Whether nobody asks the database yet.
    fn wait(&self, hash: Hash, reply: Reply) -> bool {
        let mut state = self.lock();
        state.waiting.push((hash, reply));
        !std::mem::replace(&mut state.asking, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until nobody waits. Dropped before that, whoever waits is told.
struct Asking {
    lookups: Lookups,
    over: bool,
}

impl Asking {
    async fn run(mut self, app: App) {
        while let Some(questions) = self.next() {
            let hashes: Vec<_> = questions.keys().copied().collect();
            let answers = ask(&app, &hashes).await;
            answer(questions, &hashes, answers);
        }
    }

    /// What waits, once for each token; with nothing left the task is over.
    fn next(&mut self) -> Option<HashMap<Hash, Vec<Reply>>> {
        let mut state = self.lookups.lock();
        if state.waiting.is_empty() {
            state.asking = false;
            self.over = true;
            return None;
        }
        let share = state.waiting.len().min(SHARE);
        let mut questions = HashMap::<Hash, Vec<Reply>>::with_capacity(share);
        for (hash, reply) in state.waiting.drain(..share) {
            questions.entry(hash).or_default().push(reply);
        }
        Some(questions)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.over {
            let mut state = self.lookups.lock();
            state.asking = false;
            state.waiting.clear();
        }
    }
}

async fn ask(app: &App, hashes: &[Hash]) -> Result<Vec<Live>, ApiError> {
    let mut reader = app.db().read().await?;
    // The time when it is asked, not before the wait for a connection.
    let (now_us, idle_us) = hands(app);
    let json: String = sqlx::query_scalar(
        "SELECT json_group_array(json_array(q.key, hex(s.id), hex(s.user_id), u.role, s.last_used_us))
         FROM json_each($1) q CROSS JOIN sessions s ON s.token_hash = unhex(q.value)
         JOIN users u ON u.id = s.user_id
         WHERE s.expires_us > $2 AND s.last_used_us > $3",
    )
    .bind(json_of(hashes))
    .bind(now_us)
    .bind(now_us.saturating_sub(idle_us))
    .fetch_one(&mut *reader)
    .await?;
    let found = serde_json::from_str(&json).context("sessions are not what they should be");
    found.map_err(ApiError::Internal)
}

/// A JSON array of hexadecimal texts.
fn json_of(hashes: &[Hash]) -> String {
    let mut json = String::with_capacity(hashes.len() * 67 + 2);
    let mut start = '[';
    for hash in hashes {
        json.push(start);
        json.push('"');
        for byte in hash {
            // Writing to a String does not fail.
            let _ = write!(json, "{byte:02x}");
        }
        json.push('"');
        start = ',';
    }
    json.push(']');
    json
}

fn answer(
    mut questions: HashMap<Hash, Vec<Reply>>,
    hashes: &[Hash],
    found: Result<Vec<Live>, ApiError>,
) {
    let (found, failed) = match found {
        Ok(found) => (found, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for live in found {
        let replies = hashes
            .get(live.question)
            .and_then(|hash| questions.remove(hash));
        for reply in replies.into_iter().flatten() {
            // Whoever went away needs no answer.
            let _ = reply.send(Ok(Some(live.clone())));
        }
    }
    for reply in questions.into_values().flatten() {
        let _ = reply.send(failed.as_ref().map_or(Ok(None), |error| Err(again(error))));
    }
}

/// The same error once more, for everyone who shared the statement.
fn again(error: &ApiError) -> ApiError {
    match error {
        ApiError::Busy(detail) => ApiError::Busy(detail),
        ApiError::Internal(error) => ApiError::Internal(anyhow!("{error:#}")),
        _ => ApiError::Internal(anyhow!("sessions cannot be looked up")),
    }
}
