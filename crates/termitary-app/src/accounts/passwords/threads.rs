//! Two threads that hash, each with memory that it keeps, and a bounded queue before
//! them.
//!
//! Work that nobody waits for any more is not begun: clients that go away free their
//! places in the queue, but never let more than two hashes run at once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use super::argon::Memory;

/// Hashes that run at once: one per core, each with its own memory.
const RUNNING: usize = 2;
/// Hashes that may wait for a turn; more are refused.
const WAITING: usize = 64;

/// Why nothing was hashed.
#[derive(Debug)]
pub(super) enum Refused {
    /// Too many wait already.
    Full,
    Failed(anyhow::Error),
}

/// The threads; they end with the last handle.
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// Blocks of memory that each thread keeps.
    kept: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Box<dyn Job>>,
    threads: usize,
    closed: bool,
}

trait Job: Send {
    fn is_wanted(&self) -> bool;
    fn run(self: Box<Self>, memory: &mut Memory);
}

struct Question<T, F> {
    work: F,
    reply: oneshot::Sender<anyhow::Result<T>>,
}

impl<T, F> Job for Question<T, F>
where
    T: Send,
    F: FnOnce(&mut Memory) -> anyhow::Result<T> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(self: Box<Self>, memory: &mut Memory) {
        // Sending fails if the client is gone; its result is not needed.
        let _ = self.reply.send((self.work)(memory));
    }
}

impl Threads {
    /// No thread runs before there is something to hash.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            shared: Arc::default(),
            kept,
        }
    }

    /// Runs `work` on one of the threads, in its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, result) = oneshot::channel();
        self.ask(Box::new(Question { work, reply }))?;
        result
            .await
            .unwrap_or_else(|_| Err(anyhow!("the thread that hashes panicked")))
            .map_err(Refused::Failed)
    }

    fn ask(&self, job: Box<dyn Job>) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        if state.waiting.len() >= WAITING {
            state.waiting.retain(|job| job.is_wanted());
        }
        if state.waiting.len() >= WAITING {
            return Err(Refused::Full);
        }
        if state.threads < RUNNING {
            self.start().map_err(Refused::Failed)?;
            state.threads += 1;
        }
        state.waiting.push_back(job);
        self.shared.bell.notify_one();
        Ok(())
    }

    fn start(&self) -> anyhow::Result<()> {
        let (shared, kept) = (Arc::clone(&self.shared), self.kept);
        std::thread::Builder::new()
            .name("passwords".to_owned())
            .spawn(move || shared.work_until_closed(kept))
            .map(drop)
            .context("cannot start a thread that hashes passwords")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.bell.notify_all();
    }
}

impl Shared {
    fn work_until_closed(&self, kept: usize) {
        let mut memory = Memory::new(kept);
        while let Some(job) = self.next() {
            // A panic is the failure of this one: its reply is dropped with it.
            let _ = catch_unwind(AssertUnwindSafe(|| job.run(&mut memory)));
        }
    }

    /// The next one that somebody waits for; none when the threads are to end.
    fn next(&self) -> Option<Box<dyn Job>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.waiting.pop_front() {
                Some(job) if job.is_wanted() => return Some(job),
                Some(_) => {}
                None => {
                    state = self
                        .bell
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test fails by panicking"
    )]

    use std::sync::mpsc;

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn no_more_than_two_hashes_run_though_clients_go_away() {
        let threads = Threads::new(0);
        let (begun, runs) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hash = || {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            threads.run(move |_| {
                begun.send(())?;
                Ok(gate.lock().unwrap().recv()?)
            })
        };
        // Two run and the gate holds them; their clients go away, as do 100 more.
        for _ in 0..RUNNING {
            let mut client = Box::pin(hash());
            assert!(poll!(&mut client).is_pending());
            runs.recv().unwrap();
        }
        for _ in 0..100 {
            let mut client = Box::pin(hash());
            assert!(poll!(&mut client).is_pending(), "the places are freed");
        }
        // One that stays waits behind the two, and behind nobody else.
        let mut client = Box::pin(hash());
        assert!(poll!(&mut client).is_pending());
        assert!(runs.try_recv().is_err(), "a third one runs");
        for _ in 0..=RUNNING {
            go.send(()).unwrap();
        }
        client.await.unwrap();
        runs.recv().unwrap();
        assert!(runs.try_recv().is_err(), "work for nobody was begun");
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused() {
        let threads = Threads::new(0);
        let (begun, runs) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hash = || {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            Box::pin(threads.run(move |_| {
                begun.send(())?;
                Ok(gate.lock().unwrap().recv()?)
            }))
        };
        let mut clients = Vec::new();
        for n in 0..RUNNING + WAITING {
            let mut client = hash();
            assert!(poll!(&mut client).is_pending());
            if n < RUNNING {
                runs.recv().unwrap();
            }
            clients.push(client);
        }
        assert!(matches!(hash().await, Err(Refused::Full)));
        for _ in &clients {
            go.send(()).unwrap();
        }
        for done in join_all(clients).await {
            done.unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_fails_one_hash_and_not_the_next() {
        let threads = Threads::new(0);
        for _ in 0..2 * RUNNING {
            let failed = threads.run::<()>(|_| panic!("as planned")).await;
            assert!(matches!(failed, Err(Refused::Failed(_))));
        }
        assert_eq!(threads.run(|_| Ok(7)).await.unwrap(), 7);
    }
}
