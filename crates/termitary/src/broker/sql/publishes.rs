//! Publishes that wait for the writing thread: it takes all of them at once and records
//! them in a few statements.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::db::Db;
use crate::draft::{Draft, Published};
use crate::engine::sqlite::Request;
use crate::error::Error;
use crate::ledger::batch;
use crate::lock::Mutex;

type Reply = oneshot::Sender<Result<Vec<Published>, Error>>;

/// Gathers publishes; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Publishes(Arc<Mutex<Gathered>>);

#[derive(Default)]
struct Gathered {
    drafts: Vec<Draft>,
    /// The callers: the number of their drafts, and since when they wait.
    replies: Vec<(usize, Instant, Reply)>,
}

impl Gathered {
    /// Takes out the callers that have waited for too long, at least the first.
    fn overdue(&mut self, db: &Db) -> Self {
        let is_over = |since: &Instant| since.elapsed() >= db.patience();
        let replies = self.replies.iter();
        let over = replies.take_while(|(_, since, _)| is_over(since)).count();
        let over = over.max(1).min(self.replies.len());
        let replies: Vec<_> = self.replies.drain(..over).collect();
        let drafts: usize = replies.iter().map(|(drafts, ..)| drafts).sum();
        let drafts = self.drafts.drain(..drafts).collect();
        Self { drafts, replies }
    }
}

impl Publishes {
    /// Records the drafts together with everything else that is published now, even if the
    /// caller stops waiting.
    pub(super) async fn publish(
        &self,
        db: &Db,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Published>, Error> {
        db.unless_own().await?;
        let (reply, answer) = oneshot::channel();
        if self.add(drafts, reply) {
            db.request(Box::new(Batch::new(db, self)));
        }
        let answer = answer.await;
        answer.map_err(|_| Error::internal("the writing thread has ended"))?
    }

    /// Returns whether these are the first: the writing thread then has to be asked.
    fn add(&self, drafts: Vec<Draft>, reply: Reply) -> bool {
        let mut waiting = self.0.lock();
        waiting.replies.push((drafts.len(), Instant::now(), reply));
        waiting.drafts.extend(drafts);
        waiting.replies.len() == 1
    }
}

/// The publishes of one transaction.
struct Batch {
    db: Db,
    publishes: Publishes,
    taken: Gathered,
    published: Vec<Published>,
    answered: bool,
}

impl Batch {
    fn new(db: &Db, publishes: &Publishes) -> Self {
        Self {
            db: db.clone(),
            publishes: publishes.clone(),
            taken: Gathered::default(),
            published: Vec::new(),
            answered: false,
        }
    }

    /// The turn to write did not come in time for the first callers. Later callers keep the
    /// rest of their time.
    fn ask_again(&mut self) {
        let mut waiting = self.publishes.0.lock();
        self.taken = waiting.overdue(&self.db);
        if let Some((_, since, _)) = waiting.replies.first() {
            let again = Self::new(&self.db, &self.publishes);
            self.db.request_since(Box::new(again), *since);
        }
    }
}

impl Request for Batch {
    fn run(&mut self, conn: &Connection) -> Result<(), Error> {
        self.taken = mem::take(&mut *self.publishes.0.lock());
        self.published = batch::publish(conn, &self.taken.drafts)?;
        Ok(())
    }

    fn reply(mut self: Box<Self>, ended: &Result<(), Error>) {
        if self.taken.replies.is_empty() {
            match ended {
                Err(error) if error.is_busy() => self.ask_again(),
                // The turn to write never came: all callers that wait get the error.
                _ => self.taken = mem::take(&mut *self.publishes.0.lock()),
            }
        }
        let mut published = mem::take(&mut self.published).into_iter();
        for (drafts, _, reply) in self.taken.replies.drain(..) {
            let answer = match ended {
                Ok(()) => Ok(published.by_ref().take(drafts).collect()),
                Err(error) => Err(error.repeat()),
            };
            // A caller that stopped waiting needs no answer.
            let _ = reply.send(answer);
        }
        self.answered = true;
        if ended.is_ok() {
            self.db.published().notify_waiters();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.answered {
            // The thread ended first: the channels of the callers that wait are closed.
            drop(mem::take(&mut *self.publishes.0.lock()));
        }
    }
}
