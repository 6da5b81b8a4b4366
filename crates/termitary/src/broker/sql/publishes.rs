//! Publishes that wait for the thread that writes: it takes all there are at
//! once and records them in few statements.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::db::{Asked, Db};
use crate::error::Error;
use crate::ledger::batch;
use crate::publish::{Draft, Published};

type Reply = oneshot::Sender<Result<Vec<Published>, Error>>;

/// Where publishes meet.
#[derive(Clone, Default)]
pub(super) struct Publishes(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    drafts: Vec<Draft>,
    /// Whose they are: how many of each.
    replies: Vec<(usize, Reply)>,
}

impl Publishes {
    /// Records the drafts together with whatever else is published now; it
    /// happens even if nobody waits for the answer any more.
    pub(super) async fn publish(
        &self,
        db: &Db,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Published>, Error> {
        let (reply, answer) = oneshot::channel();
        if self.add(drafts, reply) {
            db.ask(Box::new(Batch {
                db: db.clone(),
                publishes: self.clone(),
                taken: Waiting::default(),
                published: Vec::new(),
                answered: false,
            }));
        }
        let answer = answer.await;
        answer.map_err(|_| Error::internal("the thread that writes is gone"))?
    }

    /// Whether these are the first, for whom somebody has to be asked.
    fn add(&self, drafts: Vec<Draft>, reply: Reply) -> bool {
        let mut waiting = self.lock();
        waiting.replies.push((drafts.len(), reply));
        waiting.drafts.extend(drafts);
        waiting.replies.len() == 1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one transaction records.
struct Batch {
    db: Db,
    publishes: Publishes,
    taken: Waiting,
    published: Vec<Published>,
    answered: bool,
}

impl Asked for Batch {
    fn run(&mut self, conn: &Connection) -> Result<(), Error> {
        self.taken = mem::take(&mut *self.publishes.lock());
        self.published = batch::publish(conn, &self.taken.drafts)?;
        Ok(())
    }

    fn answer(mut self: Box<Self>, ended: &Result<(), Error>) {
        if self.taken.replies.is_empty() {
            // It never came to it: what waits is answered all the same.
            self.taken = mem::take(&mut *self.publishes.lock());
        }
        let mut published = mem::take(&mut self.published).into_iter();
        for (drafts, reply) in self.taken.replies.drain(..) {
            let answer = match ended {
                Ok(()) => Ok(published.by_ref().take(drafts).collect()),
                Err(error) => Err(error.repeat()),
            };
            // Whoever does not wait any more needs no answer.
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
            // The thread ended first: nobody else is asked for those who wait.
            drop(mem::take(&mut *self.publishes.lock()));
        }
    }
}
