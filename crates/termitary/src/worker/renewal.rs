//! Renews leases on a thread of its own, so that a handler that blocks every thread of
//! the runtime keeps its lease, but only until its timeout.

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
use crate::outage::Outage;
use crate::subscription::LONGEST_TIMEOUT;
use crate::task::lasting;

/// Time after its timeout for which a handler that cannot be cancelled keeps its lease.
/// Then its slot is stuck and the delivery runs elsewhere.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Renewal {
    leases: Arc<Mutex<Leases>>,
    stop: CancellationToken,
}

/// The leases to renew, in slots that are used again: a slot is found by its number.
#[derive(Default)]
struct Leases {
    slots: Vec<Option<Lease>>,
    free: Vec<usize>,
}

struct Lease {
    claim: Claim,
    until: Instant,
    end: Arc<EndSignal>,
}

impl Leases {
    /// Returns the slot.
    fn add(&mut self, lease: Lease) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(lease);
            return slot;
        }
        self.slots.push(Some(lease));
        self.slots.len() - 1
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }

    /// The leases to renew now.
    fn due(&self, now: Instant) -> (Vec<Claim>, Vec<Arc<EndSignal>>) {
        let leases = self.slots.iter().flatten();
        leases
            .filter(|lease| lease.until > now)
            .map(|lease| (lease.claim.clone(), Arc::clone(&lease.end)))
            .unzip()
    }
}

/// Tells an attempt to end: another worker has its delivery, or its transaction was
/// ended.
#[derive(Default)]
pub(super) struct EndSignal {
    set: AtomicBool,
    /// Why its transaction was ended.
    reason: OnceLock<String>,
    notify: Notify,
}

impl End for EndSignal {
    fn end(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned()); // the first reason counts
        self.set();
    }
}

impl EndSignal {
    fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    async fn wait(&self) {
        // Registered before the check: a signal in between still wakes it.
        let notified = self.notify.notified();
        if !self.set.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

/// A lease that is renewed until this is dropped.
pub(super) struct Tracked {
    leases: Arc<Mutex<Leases>>,
    slot: usize,
    end: Arc<EndSignal>,
}

impl Renewal {
    pub(super) fn start(broker: Broker) -> Result<Self, Error> {
        let leases = Arc::<Mutex<Leases>>::default();
        let stop = CancellationToken::new();
        let failed = |error| Error::internal("cannot start the lease renewal").caused_by(error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (renewed, stopped) = (Arc::clone(&leases), stop.clone());
        std::thread::Builder::new()
            .name("termitary-renewal".to_owned())
            .spawn(move || {
                runtime.block_on(lasting("renewal", || {
                    renew_all(broker.clone(), Arc::clone(&renewed), stopped.clone())
                }));
            })
            .map_err(failed)?;
        Ok(Self { leases, stop })
    }

    /// Renews a lease until the result is dropped, but no longer than its handler's
    /// timeout allows.
    pub(super) fn track(&self, claim: &Claim, timeout: Duration) -> Tracked {
        self.add(&mut self.leases.lock(), claim, renewed_until(timeout))
    }

    /// [`Renewal::track`] for each of several.
    pub(super) fn track_all(&self, deliveries: &[Leased], timeout: Duration) -> Vec<Tracked> {
        let until = renewed_until(timeout);
        let mut leases = self.leases.lock();
        deliveries
            .iter()
            .map(|delivery| self.add(&mut leases, &delivery.claim, until))
            .collect()
    }

    fn add(&self, leases: &mut Leases, claim: &Claim, until: Instant) -> Tracked {
        let end = Arc::<EndSignal>::default();
        let slot = leases.add(Lease {
            claim: claim.clone(),
            until,
            end: Arc::clone(&end),
        });
        Tracked {
            leases: Arc::clone(&self.leases),
            slot,
            end,
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// The end of the renewals of a lease that begins now.
fn renewed_until(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST_TIMEOUT) + STUCK_AFTER
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tracked {
    /// Resolves when another worker has the delivery, or with a reason when its
    /// transaction was ended.
    pub(super) async fn lost(&self) -> Option<&str> {
        self.end.wait().await;
        self.end.reason.get().map(String::as_str)
    }

    /// The signal that ends the attempt.
    pub(super) fn end(&self) -> Arc<EndSignal> {
        Arc::clone(&self.end)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.leases.lock().remove(self.slot);
    }
}

/// Watches this process's transactions for `time`. This thread runs whatever handlers
/// do, and a transaction that does nothing blocks the writers of all processes.
async fn watch_turns(db: &Db, time: Duration) {
    const LOOK: Duration = Duration::from_secs(1);
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + LOOK)).await;
        db.look_at_turn();
    }
}

async fn renew_all(broker: Broker, leases: Arc<Mutex<Leases>>, stop: CancellationToken) {
    // A third of the lease: it survives two misses in a row.
    let every = broker.lease_time() / 3;
    let outage = Outage::with_waits("renewing leases", every / 10, every / 10);
    let mut pause = every;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = watch_turns(broker.db(), pause) => {}
        }
        let (claims, ends) = leases.lock().due(Instant::now());
        if claims.is_empty() {
            continue;
        }
        fault::point!("renew.before", no error);
        let renewed = broker.transport().renew(&claims).await;
        fault::point!("renew.after", no error);
        pause = match renewed {
            Ok(held) => {
                outage.over();
                let lost = ends.iter().zip(held).filter(|(_, held)| !held);
                lost.for_each(|(end, _)| end.set());
                every
            }
            Err(error) => outage.failed(&error),
        };
    }
}
