//! Room for connections: so many in all, and so many from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::network;

/// Descriptors that connections leave to the database, Redis, mail and the like.
const RESERVE: usize = 128;

/// Counts connections.
#[derive(Clone)]
pub(super) struct Places {
    total: Arc<Semaphore>,
    /// None behind a proxy: the address is the proxy's then.
    most_per_address: Option<usize>,
    by_address: Arc<Mutex<HashMap<String, usize>>>,
}

/// The place of one connection, free again when it is dropped.
pub(super) struct Place {
    places: Places,
    address: String,
    _total: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(most: usize, most_per_address: Option<usize>) -> Self {
        Self {
            total: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            most_per_address,
            by_address: Arc::default(),
        }
    }

    /// Waits until another connection may be open.
    pub(super) async fn next(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.total).acquire_owned().await.ok()
    }

    /// The place of a connection from `peer`; none where that has enough of them.
    pub(super) fn take(&self, total: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let address = network(peer.to_canonical());
        let mut by_address = self.lock();
        let mine = by_address.entry(address.clone()).or_default();
        if self.most_per_address.is_some_and(|most| *mine >= most) {
            return None;
        }
        *mine += 1;
        drop(by_address);
        Some(Place {
            places: self.clone(),
            address,
            _total: total,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.places.lock();
        if let Some(mine) = by_address.get_mut(&self.address) {
            *mine -= 1;
            if *mine == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// How many of `wanted` connections the descriptors of this process allow, after
/// raising its limit as far as it may.
pub(super) fn within_descriptors(wanted: usize) -> usize {
    let Some(most) = raise_descriptors() else {
        return wanted;
    };
    let room = most.saturating_sub(RESERVE).max(most / 2);
    if room < wanted {
        tracing::warn!(
            wanted,
            room,
            descriptors = most,
            "fewer connections than configured: raise the limit on open files (LimitNOFILE, ulimit -n)"
        );
    }
    wanted.min(room)
}

/// The limit on open files; none where there is none, or it cannot be known.
#[cfg(unix)]
fn raise_descriptors() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.and_then(|most| usize::try_from(most).ok())
}

#[cfg(not(unix))]
fn raise_descriptors() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    async fn take(places: &Places, peer: &str) -> Option<Place> {
        let total = places.next().await.unwrap();
        places.take(total, peer.parse().unwrap())
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place_and_others_still_get_one() {
        let places = Places::new(10, Some(2));
        let first = take(&places, "192.0.2.1").await.unwrap();
        let _second = take(&places, "::ffff:192.0.2.1").await.unwrap();
        assert!(take(&places, "192.0.2.1").await.is_none());
        assert!(take(&places, "192.0.2.2").await.is_some());
        drop(first);
        assert!(take(&places, "192.0.2.1").await.is_some());
        assert_eq!(places.total.available_permits(), 9);
    }

    #[tokio::test]
    async fn a_network_of_ipv6_counts_as_one_address() {
        let places = Places::new(10, Some(1));
        let _one = take(&places, "2001:db8::1").await.unwrap();
        assert!(take(&places, "2001:db8::ffff").await.is_none());
        assert!(take(&places, "2001:db8:0:1::1").await.is_some());
        assert_eq!(places.lock().len(), 1, "what is closed is forgotten");
    }

    #[tokio::test]
    async fn behind_a_proxy_every_connection_may_have_its_address() {
        let places = Places::new(10, None);
        let mut open = Vec::new();
        for _ in 0..10 {
            open.push(take(&places, "127.0.0.1").await.unwrap());
        }
        assert_eq!(places.total.available_permits(), 0);
    }

    #[test]
    fn connections_fit_below_the_descriptors_of_the_process() {
        let room = within_descriptors(usize::MAX);
        assert!(room > 0);
        assert_eq!(within_descriptors(10), 10);
    }
}
