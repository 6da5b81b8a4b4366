//! The rules of the ledger and all of its SQL: the deliveries that are owed, and how each
//! one ended. Every statement works on a set of rows. Every change of a leased delivery
//! compares the fence (`sql::held`), so a worker that lost its lease changes nothing.

mod adopt;
mod audit;
pub(crate) mod backfill;
pub(crate) mod batch;
pub(crate) mod broadcasts;
mod carrier;
pub(crate) mod clocks;
mod db;
mod declare;
#[cfg(test)]
mod declare_tests;
mod due_later;
#[cfg(all(test, feature = "testing"))]
mod due_later_tests;
pub(crate) mod entries;
mod event_changes;
mod events;
pub(crate) mod handover;
#[cfg(feature = "postgres")]
pub(crate) mod health;
mod insert;
mod lease;
pub(crate) mod letters;
mod moving;
#[cfg(feature = "postgres")]
mod on_postgres;
#[cfg(test)]
mod plans_tests;
mod publish;
mod publish_last;
#[cfg(test)]
mod publish_tests;
mod read;
pub(crate) mod redis_servers;
pub(crate) mod relay;
mod retention;
pub(crate) mod rows;
mod schema;
mod sequence;
mod settle;
pub(crate) mod single_writer;
mod sql;
pub(crate) mod suspects;
pub(crate) mod ticks;
#[cfg(test)]
mod twice_tests;
mod tx;
pub(crate) mod verbs;
pub(crate) mod waiting;
pub(crate) mod workers;

pub(crate) use adopt::{adopt, adopt_done};
pub(crate) use audit::audit;
pub(crate) use carrier::{Carrier, Committed, Trust};
pub use db::{Db, Options};
pub(crate) use declare::{
    BRIDGE, Declaration, DeclaredSubscription, Readable, declare, dropped, forget_former, former,
    has_route, readable, registered, release, routes,
};
pub(crate) use due_later::DueLater;
pub(crate) use lease::{Lease, Whose, crash, crash_held, renew, stale};
pub(crate) use letters::{letter, letters, matching, resolve};
pub use moving::{MoveProgress, move_to};
#[cfg(feature = "postgres")]
pub(crate) use publish::publish_on_postgres;
pub(crate) use publish::{Parked, park_foreign, publish, publish_on_sqlite};
pub(crate) use publish_last::reached;
use publish_last::{lease_and_commit, publish_and_commit};
pub(crate) use read::{count_events, heads, read, tally};
pub(crate) use retention::{Walk, forget};
pub use schema::Migration;
pub use sequence::Sequence;
pub(crate) use settle::{finish, settle};
pub(crate) use sql::Row;
pub use tx::Tx;

/// The numbers of rows for which there is a statement with bound values. They are few, so
/// that each statement is prepared once per connection. One statement takes many rows,
/// because the start of each costs as much as a row or two, and with sqlx a trip to
/// another thread.
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

/// Reads the rows that a statement gathered into one JSON text.
pub(crate) fn gathered<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, crate::Error> {
    serde_json::from_str(json).map_err(|error| {
        crate::Error::internal("rows of the ledger are not what they should be").caused_by(error)
    })
}
