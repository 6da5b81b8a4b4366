//! Group commit: what is asked while one transaction runs shares the next.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::broker::{Leased, Outcome, Settlement, WorkerId};
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;
use crate::ledger;
use crate::publish::{Draft, Published};

type Reply<T> = oneshot::Sender<Result<T, Error>>;
type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// One thing to do in the next transaction.
pub(super) enum Op {
    Publish {
        drafts: Vec<Draft>,
        reply: Reply<Vec<Published>>,
    },
    Lease {
        route: i64,
        worker: WorkerId,
        max: usize,
        now_us: i64,
        until_us: i64,
        reply: Reply<Vec<Leased>>,
    },
    Settle {
        settlements: Vec<Settlement>,
        reply: Reply<Vec<bool>>,
    },
}

/// A queue of operations and the turn to carry them out.
#[derive(Clone)]
pub(super) struct GroupCommit(Arc<Inner>);

struct Inner {
    db: Db,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    ops: Vec<Op>,
    /// Somebody carries them out.
    served: bool,
}

impl GroupCommit {
    pub(super) fn new(db: Db) -> Self {
        Self(Arc::new(Inner {
            db,
            queue: Mutex::default(),
        }))
    }

    /// Carries out one operation, together with whatever else is asked now.
    /// Once submitted it happens even if nobody waits for the answer any more.
    pub(super) async fn submit<T>(&self, op: impl FnOnce(Reply<T>) -> Op) -> Result<T, Error> {
        told(self.ask(op).await)
    }

    /// [`GroupCommit::submit`] for leases: they go back at once where nobody
    /// takes the answer, however late the asker goes away.
    pub(super) async fn lease(
        &self,
        op: impl FnOnce(Reply<Vec<Leased>>) -> Op,
    ) -> Result<Vec<Leased>, Error> {
        let mut unseen = Unseen {
            answer: self.ask(op),
            inner: Arc::clone(&self.0),
        };
        told((&mut unseen.answer).await)
    }

    fn ask<T>(&self, op: impl FnOnce(Reply<T>) -> Op) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        if self.0.push(op(reply)) {
            let serving = Serving {
                inner: Arc::clone(&self.0),
                over: false,
            };
            tokio::spawn(serving.run());
        }
        answer
    }
}

fn told<T>(answer: Result<Result<T, Error>, oneshot::error::RecvError>) -> Result<T, Error> {
    answer.map_err(|_| Error::internal("the runtime stopped before the transaction ended"))?
}

/// Leases that were answered and perhaps not looked at.
struct Unseen {
    answer: Answer<Vec<Leased>>,
    inner: Arc<Inner>,
}

impl Drop for Unseen {
    fn drop(&mut self) {
        self.answer.close(); // from here on the other side hands back
        if let Ok(Ok(leased)) = self.answer.try_recv()
            && let Ok(runtime) = Handle::try_current()
        {
            let inner = Arc::clone(&self.inner);
            runtime.spawn(async move { inner.hand_back(leased).await });
        }
    }
}

/// The turn to carry out operations, until there are none.
struct Serving {
    inner: Arc<Inner>,
    over: bool,
}

impl Serving {
    async fn run(mut self) {
        loop {
            // Whoever was just answered asks again at once: let them, so that
            // they share this transaction instead of waiting for it.
            tokio::task::yield_now().await;
            let Some(ops) = self.inner.take() else {
                break;
            };
            self.inner.carry_out(ops).await;
        }
        self.over = true;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.over {
            return; // the turn is another's already
        }
        // Dropped half-way, with the runtime: whoever still waits is told.
        let mut queue = self.inner.lock();
        queue.served = false;
        queue.ops.clear();
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Every change of the queue is whole before anything can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller has to see to it that somebody serves the queue.
    fn push(&self, op: Op) -> bool {
        let mut queue = self.lock();
        queue.ops.push(op);
        !mem::replace(&mut queue.served, true)
    }

    fn take(&self) -> Option<Vec<Op>> {
        let mut queue = self.lock();
        if queue.ops.is_empty() {
            queue.served = false;
            return None;
        }
        Some(mem::take(&mut queue.ops))
    }

    async fn carry_out(&self, ops: Vec<Op>) {
        let mut batch = Batch::of(ops);
        match self.run(&batch).await {
            Ok(answers) => {
                let lost = batch.answer(answers);
                self.hand_back(lost).await;
            }
            Err(error) => batch.fail(&error),
        }
    }

    async fn run(&self, batch: &Batch) -> Result<Answers, Error> {
        let mut tx = self.db.begin().await?;
        let answers = batch.run(&mut tx, &self.db).await?;
        fault::point!("batch.before_commit");
        tx.commit().await?;
        fault::point!("batch.after_commit");
        if !batch.drafts.is_empty() {
            self.db.published().notify_waiters();
        }
        Ok(answers)
    }

    /// Leases whose asker is gone go back at once instead of running out.
    async fn hand_back(&self, lost: Vec<Leased>) {
        if lost.is_empty() {
            return;
        }
        let now_us = self.db.clock().now_us();
        let release = |leased: Leased| Settlement {
            claim: leased.claim,
            outcome: Outcome::Snooze { due_us: now_us },
        };
        let settlements: Vec<_> = lost.into_iter().map(release).collect();
        let result = async {
            let mut tx = self.db.begin().await?;
            ledger::settle(&mut tx, &settlements, now_us).await?;
            tx.commit().await
        };
        if let Err(error) = result.await {
            tracing::warn!(error = ?error, "unwanted leases were not handed back: they run out instead");
        }
    }
}

/// Operations of one transaction, grouped so that each kind is one set.
struct Batch {
    drafts: Vec<Draft>,
    publishers: Vec<(usize, Reply<Vec<Published>>)>,
    leases: Vec<LeaseOp>,
    settlements: Vec<Settlement>,
    settlers: Vec<(usize, Reply<Vec<bool>>)>,
}

struct LeaseOp {
    route: i64,
    worker: WorkerId,
    max: usize,
    now_us: i64,
    until_us: i64,
    reply: Reply<Vec<Leased>>,
}

struct Answers {
    published: Vec<Published>,
    leased: Vec<Vec<Leased>>,
    settled: Vec<bool>,
}

impl Batch {
    fn of(ops: Vec<Op>) -> Self {
        let mut batch = Self {
            drafts: Vec::new(),
            publishers: Vec::new(),
            leases: Vec::new(),
            settlements: Vec::new(),
            settlers: Vec::new(),
        };
        for op in ops {
            match op {
                Op::Publish { drafts, reply } => {
                    batch.publishers.push((drafts.len(), reply));
                    batch.drafts.extend(drafts);
                }
                Op::Lease {
                    route,
                    worker,
                    max,
                    now_us,
                    until_us,
                    reply,
                } => {
                    batch.leases.push(LeaseOp {
                        route,
                        worker,
                        max,
                        now_us,
                        until_us,
                        reply,
                    });
                }
                Op::Settle { settlements, reply } => {
                    batch.settlers.push((settlements.len(), reply));
                    batch.settlements.extend(settlements);
                }
            }
        }
        batch
    }

    async fn run(&self, tx: &mut Tx, db: &Db) -> Result<Answers, Error> {
        let published = if self.drafts.is_empty() {
            Vec::new()
        } else {
            ledger::publish(tx, db.source(), &self.drafts).await?
        };
        let settled = ledger::settle(tx, &self.settlements, db.clock().now_us()).await?;
        let mut leased = Vec::with_capacity(self.leases.len());
        for op in &self.leases {
            leased.push(
                ledger::lease(tx, op.route, &op.worker, op.max, op.now_us, op.until_us).await?,
            );
        }
        Ok(Answers {
            published,
            leased,
            settled,
        })
    }

    /// Answers everyone; returns what was leased for askers that are gone.
    fn answer(&mut self, answers: Answers) -> Vec<Leased> {
        let mut published = answers.published.into_iter();
        for (n, reply) in self.publishers.drain(..) {
            // Whoever does not wait any more needs no answer.
            let _ = reply.send(Ok(published.by_ref().take(n).collect()));
        }
        let mut settled = answers.settled.into_iter();
        for (n, reply) in self.settlers.drain(..) {
            let _ = reply.send(Ok(settled.by_ref().take(n).collect()));
        }
        let mut lost = Vec::new();
        for (op, leased) in self.leases.drain(..).zip(answers.leased) {
            if let Err(Ok(unseen)) = op.reply.send(Ok(leased)) {
                lost.extend(unseen);
            }
        }
        lost
    }

    fn fail(&mut self, error: &Error) {
        for (_, reply) in self.publishers.drain(..) {
            let _ = reply.send(Err(error.repeat()));
        }
        for (_, reply) in self.settlers.drain(..) {
            let _ = reply.send(Err(error.repeat()));
        }
        for op in self.leases.drain(..) {
            let _ = op.reply.send(Err(error.repeat()));
        }
    }
}
