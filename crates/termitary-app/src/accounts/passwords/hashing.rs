//! Hashing on the runtime's blocking threads: two hashes at once, each in memory that is
//! kept for the next, and a bounded queue before them.
//!
//! A hash that no client waits for is not started. A client that goes away frees its
//! place in the queue, but never lets more than two hashes run at once.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use tokio::sync::Semaphore;

use super::argon::Memory;

/// Hashes that run at once, each with its own memory.
const RUNNING: usize = 2;
/// Hashes that may wait for their turn; more are refused.
const WAITING: usize = 64;

/// A hash that was not computed.
#[derive(Debug)]
pub(super) enum Refused {
    /// Too many wait already.
    Full,
    Failed(anyhow::Error),
}

/// The queue, and the memory of the hashes.
pub(super) struct Hashing {
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    memory: Arc<Mutex<Vec<Memory>>>,
    /// The blocks of memory that are kept after a hash.
    kept: usize,
}

impl Hashing {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(RUNNING + WAITING)),
            running: Arc::new(Semaphore::new(RUNNING)),
            memory: Arc::default(),
            kept,
        }
    }

    /// Runs `work` on a blocking thread, in its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Refused::Full);
        };
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running
            .context("the queue of password hashes is closed")
            .map_err(Refused::Failed)?;
        let (memory, kept) = (Arc::clone(&self.memory), self.kept);
        let hashing = tokio::task::spawn_blocking(move || {
            // Held until the hash ends, even if its client goes away.
            let _held = (place, running);
            // The lock is held only for a pop or a push, which cannot panic.
            let pool = || memory.lock().unwrap_or_else(PoisonError::into_inner);
            let free = pool().pop();
            let mut own = free.unwrap_or_else(|| Memory::new(kept));
            let result = work(&mut own);
            pool().push(own);
            result
        });
        hashing
            .await
            .unwrap_or_else(|_| Err(anyhow!("the thread that hashes panicked")))
            .map_err(Refused::Failed)
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
    use std::time::Duration;

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn no_more_than_two_hashes_run_though_clients_go_away() {
        let hashing = Hashing::new(0);
        let (begun, runs) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hash = || {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            hashing.run(move |_| {
                begun.send(())?;
                Ok(gate.lock().unwrap().recv()?)
            })
        };
        // Two run until the gate opens; their clients go away, as do 100 more.
        for _ in 0..RUNNING {
            let mut client = Box::pin(hash());
            assert!(poll!(&mut client).is_pending());
            runs.recv().unwrap();
        }
        for _ in 0..100 {
            let mut client = Box::pin(hash());
            assert!(poll!(&mut client).is_pending(), "the places are freed");
        }
        // A client that stays waits only for the two.
        let mut client = Box::pin(hash());
        assert!(poll!(&mut client).is_pending());
        let third = runs.recv_timeout(Duration::from_millis(300));
        assert!(third.is_err(), "a third one runs");
        for _ in 0..=RUNNING {
            go.send(()).unwrap();
        }
        client.await.unwrap();
        runs.recv().unwrap();
        assert!(runs.try_recv().is_err(), "work for nobody was begun");
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused() {
        let hashing = Hashing::new(0);
        let (begun, runs) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hash = || {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            Box::pin(hashing.run(move |_| {
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
        let hashing = Hashing::new(0);
        for _ in 0..2 * RUNNING {
            let failed = hashing.run::<()>(|_| panic!("as planned")).await;
            assert!(matches!(failed, Err(Refused::Failed(_))));
        }
        assert_eq!(hashing.run(|_| Ok(7)).await.unwrap(), 7);
    }
}
