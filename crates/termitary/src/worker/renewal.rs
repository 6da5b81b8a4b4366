//! Leases are renewed on a thread of their own: a handler that blocks every
//! thread of the runtime keeps its lease, but only until its timeout.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::db::Db;
use crate::delivery::{Claim, Leased};
use crate::error::Error;
use crate::fault;
use crate::handler::End;
use crate::lock::Mutex;
use crate::subscription::LONGEST_TIMEOUT;
use crate::task::lasting;

/// Time after its timeout for which a handler that cannot be cancelled keeps its lease; then the
/// slot is stuck and the delivery runs elsewhere.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Renewal {
    book: Arc<Book>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Book {
    leases: Mutex<Leases>,
}

/// In places that are used again: finding one by its number costs nothing.
#[derive(Default)]
struct Leases {
    places: Vec<Option<Held>>,
    free: Vec<usize>,
}

impl Leases {
    /// Answers the place.
    fn enter(&mut self, held: Held) -> usize {
        if let Some(place) = self.free.pop() {
            self.places[place] = Some(held);
            return place;
        }
        self.places.push(Some(held));
        self.places.len() - 1
    }

    fn leave(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }
}

struct Held {
    claim: Claim,
    until: Instant,
    lost: Arc<Lost>,
}

/// Ends an attempt: another worker has the delivery, or its transaction was ended.
#[derive(Default)]
pub(super) struct Lost {
    rung: AtomicBool,
    /// Why its transaction was ended.
    ended: OnceLock<String>,
    bell: Notify,
}

impl End for Lost {
    fn end(&self, reason: &str) {
        let _ = self.ended.set(reason.to_owned()); // the first reason is the one
        self.set();
    }
}

impl Lost {
    fn set(&self) {
        self.rung.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }

    async fn wait(&self) {
        // Listen before looking, so that a signal in between is not missed.
        let bell = self.bell.notified();
        if !self.rung.load(Ordering::Acquire) {
            bell.await;
        }
    }
}

/// A lease that is renewed until this is dropped.
pub(super) struct Tracked {
    book: Arc<Book>,
    place: usize,
    lost: Arc<Lost>,
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
            .spawn(move || {
                runtime.block_on(lasting("renewal", || {
                    renew_all(broker.clone(), Arc::clone(&renewed), stopped.clone())
                }));
            })
            .map_err(|error| Error::internal("cannot start the lease renewal").caused_by(error))?;
        Ok(Self { book, stop })
    }

    /// Renews a claim until the returned value is dropped, but no longer than its handler's timeout
    /// allows.
    pub(super) fn track(&self, claim: &Claim, timeout: Duration) -> Tracked {
        let until = renewed_until(timeout);
        self.enter(&mut self.book.leases.lock(), claim, until)
    }

    /// The same for each of many.
    pub(super) fn track_all(&self, leased: &[Leased], timeout: Duration) -> Vec<Tracked> {
        let until = renewed_until(timeout);
        let mut book = self.book.leases.lock();
        let claims = leased.iter().map(|leased| &leased.claim);
        claims
            .map(|claim| self.enter(&mut book, claim, until))
            .collect()
    }

    fn enter(&self, book: &mut Leases, claim: &Claim, until: Instant) -> Tracked {
        let lost = Arc::<Lost>::default();
        let place = book.enter(Held {
            claim: claim.clone(),
            until,
            lost: Arc::clone(&lost),
        });
        Tracked {
            book: Arc::clone(&self.book),
            place,
            lost,
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// When a lease that begins now is renewed no more.
fn renewed_until(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST_TIMEOUT) + STUCK_AFTER
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tracked {
    /// Resolves when another worker has the delivery, or its transaction was ended:
    /// then with the reason.
    pub(super) async fn lost(&self) -> Option<&str> {
        self.lost.wait().await;
        self.lost.ended.get().map(String::as_str)
    }

    /// Ends the attempt from outside.
    pub(super) fn end(&self) -> Arc<Lost> {
        Arc::clone(&self.lost)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.book.leases.lock().leave(self.place);
    }
}

impl Book {
    /// The claims to renew now.
    fn due(&self, now: Instant) -> (Vec<Claim>, Vec<Arc<Lost>>) {
        let leases = self.leases.lock();
        let held = leases.places.iter().flatten();
        held.filter(|held| held.until > now)
            .map(|held| (held.claim.clone(), Arc::clone(&held.lost)))
            .unzip()
    }
}

/// Watches this process's transactions for this long: this thread runs even if handlers block, and
/// an idle transaction keeps all processes from writing.
async fn watch_turns(db: &Db, time: Duration) {
    const LOOK: Duration = Duration::from_secs(1);
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + LOOK)).await;
        db.look_at_turn();
    }
}

async fn renew_all(broker: Broker, book: Arc<Book>, stop: CancellationToken) {
    // A third of the lease: two misses in a row survive.
    let every = broker.lease_time() / 3;
    let mut failing = false;
    loop {
        // Claims that could not be renewed are waiting already.
        let pause = if failing { every / 10 } else { every };
        tokio::select! {
            () = stop.cancelled() => return,
            () = watch_turns(broker.db(), pause) => {}
        }
        let (claims, losses) = book.due(Instant::now());
        if claims.is_empty() {
            continue;
        }
        fault::point!("renew.before", no error);
        let renewed = broker.transport().renew(&claims).await;
        fault::point!("renew.after", no error);
        match renewed {
            Ok(held) => {
                failing = false;
                for (lost, held) in losses.iter().zip(held) {
                    if !held {
                        lost.set();
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
