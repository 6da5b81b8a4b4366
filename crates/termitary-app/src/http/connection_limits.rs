//! The limit on connections, in all and from one address.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::network::network;
use crate::quota::{Quota, Share};

/// Descriptors that connections leave to the database, Redis, mail and the like.
const RESERVE: usize = 128;

/// Counts open connections.
#[derive(Clone)]
pub(super) struct ConnectionLimits {
    total: Arc<Semaphore>,
    by_address: Quota<String>,
}

/// The place of one open connection, free again when it is dropped.
pub(super) struct Place {
    _total: OwnedSemaphorePermit,
    _address: Share<String>,
}

impl ConnectionLimits {
    /// `most_per_address` is `None` behind a proxy, whose address all connections have.
    pub(super) fn new(most: usize, most_per_address: Option<usize>) -> Self {
        let per_address = most_per_address.map_or(u64::MAX, |most| most as u64);
        Self {
            total: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            by_address: Quota::new(u64::MAX, per_address),
        }
    }

    /// Waits until another connection may be open.
    pub(super) async fn next(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.total).acquire_owned().await.ok()
    }

    /// The place of a connection from `peer`, unless its address has too many.
    pub(super) fn take(&self, total: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let address = self.by_address.take(network(peer.to_canonical()), 1).ok()?;
        Some(Place {
            _total: total,
            _address: address,
        })
    }
}

/// The number of connections, at most `wanted`, that the file descriptors of this
/// process allow after raising their limit as far as possible.
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

/// The limit on open files, if there is one and it is known.
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

    async fn take(limits: &ConnectionLimits, peer: &str) -> Option<Place> {
        let total = limits.next().await.unwrap();
        limits.take(total, peer.parse().unwrap())
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place_and_others_still_get_one() {
        let limits = ConnectionLimits::new(10, Some(2));
        let first = take(&limits, "192.0.2.1").await.unwrap();
        let _second = take(&limits, "::ffff:192.0.2.1").await.unwrap();
        assert!(take(&limits, "192.0.2.1").await.is_none());
        assert!(take(&limits, "192.0.2.2").await.is_some());
        drop(first);
        assert!(take(&limits, "192.0.2.1").await.is_some());
        assert_eq!(limits.total.available_permits(), 9);
    }

    #[tokio::test]
    async fn a_network_of_ipv6_counts_as_one_address() {
        let limits = ConnectionLimits::new(10, Some(1));
        let _one = take(&limits, "2001:db8::1").await.unwrap();
        assert!(take(&limits, "2001:db8::ffff").await.is_none());
        assert!(take(&limits, "2001:db8:0:1::1").await.is_some());
    }

    #[tokio::test]
    async fn behind_a_proxy_every_connection_may_have_its_address() {
        let limits = ConnectionLimits::new(10, None);
        let mut open = Vec::new();
        for _ in 0..10 {
            open.push(take(&limits, "127.0.0.1").await.unwrap());
        }
        assert_eq!(limits.total.available_permits(), 0);
    }

    #[test]
    fn connections_fit_below_the_descriptors_of_the_process() {
        let room = within_descriptors(usize::MAX);
        assert!(room > 0);
        assert_eq!(within_descriptors(10), 10);
        #[cfg(unix)]
        {
            use rustix::process::{Resource, getrlimit};
            let limit = getrlimit(Resource::Nofile);
            assert_eq!(limit.current, limit.maximum, "raised as far as it may be");
            if let Some(most) = limit.maximum {
                assert!((room as u64) < most, "{room} of {most}");
            }
        }
    }
}
