//! The ledger's rules as statements: what is owed to whom, and what became of
//! it. Every statement works on a set; every change of a leased delivery
//! compares the fence, so that a worker that lost its lease changes nothing.

pub(crate) mod batch;
pub(crate) mod broadcasts;
pub(crate) mod carried;
mod declare;
#[cfg(test)]
mod declare_tests;
pub(crate) mod doubt;
mod events;
mod forward;
#[cfg(all(test, feature = "testing"))]
mod forward_tests;
mod handed;
mod insert;
mod lease;
mod letters;
mod moved;
#[cfg(test)]
mod plans_tests;
mod publish;
mod publish_last;
#[cfg(test)]
mod publish_tests;
mod read;
pub(crate) mod relay;
mod retain;
pub(crate) mod retained;
mod settle;
pub(crate) mod standing;
pub(crate) mod stored;
pub(crate) mod suspects;
#[cfg(test)]
mod twice_tests;

pub(crate) use declare::{BRIDGE, Names, declare, read as readable, release, routes};
pub(crate) use declare::{Former, dropped, forget_former, former, has_route};
pub(crate) use forward::Forward;
pub(crate) use handed::settle;
pub(crate) use lease::crash_held;
pub(crate) use lease::{Lease, Whose, crash, renew, stale};
pub(crate) use letters::{Resolve, letter, letters, matching, resolve};
pub(crate) use publish::publish;
pub(crate) use publish::{Parked, park_foreign};
pub(crate) use publish_last::publish_and_commit;
pub(crate) use publish_last::{lease_and_commit, reached};
pub(crate) use read::{heads, last_seq, read, tally};
pub(crate) use retain::{Walk, forget};
pub(crate) use settle::finish;
pub(crate) use settle::{adopt, note};

/// How many rows one statement with bound values takes at most: few sizes, so
/// that each is prepared once per connection, and one statement for many rows, since
/// the start of each costs as much as a row or two, and with sqlx a trip to another
/// thread.
const SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// The place in [`SIZES`] of the statement for so many rows (one at least), and
/// how many of them it takes.
fn size_for(rows: usize) -> (usize, usize) {
    let place = SIZES.partition_point(|&size| size < rows);
    let place = place.min(SIZES.len() - 1);
    (place, rows.min(SIZES[place]))
}

/// A delivery's state as stored.
pub(crate) mod state {
    /// Pending, and to be run alone: see [`super::suspects`].
    pub(crate) const SUSPECT: i64 = -1;
    pub(crate) const PENDING: i64 = 0;
    pub(crate) const LEASED: i64 = 1;
    pub(crate) const DONE: i64 = 2;
    pub(crate) const DEAD: i64 = 3;
    pub(crate) const PARKED: i64 = 4;
}

/// What a statement gathered.
pub(crate) fn gathered<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, crate::Error> {
    serde_json::from_str(json).map_err(|error| {
        crate::Error::internal("rows of the ledger are not what they should be").caused_by(error)
    })
}
