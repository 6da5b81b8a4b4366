//! Leases are renewed on a thread of their own: a handler that blocks every
//! thread of the runtime keeps its lease, but only until its timeout.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Claim};
use crate::error::Error;
use crate::fault;

/// How long after its timeout a handler that cannot be cancelled keeps its
/// lease: then the slot is stuck and the delivery runs elsewhere.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Renewal {
    book: Arc<Book>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Book {
    leases: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    next: u64,
    held: HashMap<u64, Held>,
}

struct Held {
    claim: Claim,
    until: Instant,
    lost: CancellationToken,
}

/// A lease that is renewed until this is dropped.
pub(super) struct Tracked {
    book: Arc<Book>,
    ticket: u64,
    lost: CancellationToken,
}

impl Renewal {
    pub(super) fn start(broker: Broker) -> Result<Self, Error> {
        let book = Arc::new(Book::default());
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal("cannot start the lease renewal").caused_by(error))?;
        let (renewed, stopped) = (Arc::clone(&book), stop.clone());
        std::thread::Builder::new()
            .name("termitary-renewal".to_owned())
            .spawn(move || runtime.block_on(renew_all(broker, renewed, stopped)))
            .map_err(|error| Error::internal("cannot start the lease renewal").caused_by(error))?;
        Ok(Self { book, stop })
    }

    /// Renews `claim` until the answer is dropped, but no longer than its
    /// handler's timeout allows.
    pub(super) fn track(&self, claim: &Claim, timeout: Duration) -> Tracked {
        let lost = CancellationToken::new();
        let until = Instant::now() + timeout + STUCK_AFTER;
        let mut leases = self.book.lock();
        leases.next += 1;
        let ticket = leases.next;
        leases.held.insert(
            ticket,
            Held {
                claim: claim.clone(),
                until,
                lost: lost.clone(),
            },
        );
        Tracked {
            book: Arc::clone(&self.book),
            ticket,
            lost,
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tracked {
    /// Resolves when another worker has the delivery.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.book.lock().held.remove(&self.ticket);
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Leases> {
        // Inserts and removals leave the map whole even on a panic.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be renewed now.
    fn due(&self, now: Instant) -> (Vec<Claim>, Vec<CancellationToken>) {
        let leases = self.lock();
        let held = leases.held.values().filter(|held| held.until > now);
        held.map(|held| (held.claim.clone(), held.lost.clone()))
            .unzip()
    }
}

async fn renew_all(broker: Broker, book: Arc<Book>, stop: CancellationToken) {
    // A third of the lease: two misses in a row survive.
    let every = broker.lease_time() / 3;
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let (claims, tokens) = book.due(Instant::now());
        if claims.is_empty() {
            continue;
        }
        fault::point!("renew.before", no error);
        let renewed = broker.transport().renew(&claims).await;
        fault::point!("renew.after", no error);
        match renewed {
            Ok(held) => {
                failing = false;
                for (token, held) in tokens.iter().zip(held) {
                    if !held {
                        token.cancel();
                    }
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(error = ?error, leases = claims.len(), "cannot renew leases; trying again");
                }
                failing = true;
            }
        }
    }
}
