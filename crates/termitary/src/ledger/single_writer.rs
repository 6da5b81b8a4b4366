//! Three meanings that the ledger has from SQLite's single writer. Each one stands here
//! and nowhere else, because another database has to make it: see decision 0011.
//!
//! - `seq` is the commit order: `newest!`.
//! - Nobody else writes in the meantime: [`alone`].
//! - A publish joins the routes that are there when it commits: [`declaring`].

use crate::db::{Conn, Db, Tx};
use crate::error::Error;

/// The `seq` up to which a table of events or broadcasts is complete: a reader that goes
/// on after it misses nothing. One writer at a time takes each `seq` and commits it before
/// the next. With several writers a reader stops below the oldest one that still runs.
macro_rules! newest {
    ($table:literal) => {
        concat!("(SELECT COALESCE(MAX(seq), 0) FROM ", $table, ")")
    };
}
pub(super) use newest;

/// The `seq` up to which the history of events is complete.
pub(crate) async fn newest_event(conn: &mut Conn) -> Result<i64, Error> {
    const NEWEST: &str = concat!("SELECT ", newest!("termitary_events"));
    Ok(sqlx::query_scalar(NEWEST).fetch_one(conn).await?)
}

/// The same for broadcasts.
pub(super) async fn newest_broadcast(conn: &mut Conn) -> Result<i64, Error> {
    const NEWEST: &str = concat!("SELECT ", newest!("termitary_broadcasts"));
    Ok(sqlx::query_scalar(NEWEST).fetch_one(conn).await?)
}

/// Begins a transaction that reads rows and then changes them, and relies on them being
/// the same. No other writer runs meanwhile. With several writers such rows are locked as
/// they are read, and suspects, of which one may run at a time, have a lock of their own.
pub(super) async fn alone(db: &Db) -> Result<Tx, Error> {
    db.begin().await
}

/// Begins a transaction that changes routes. A publish that commits before it owes
/// deliveries by the old routes, one that commits after it by the new ones. With several
/// writers a publish shares a lock on the routes, and this transaction has it alone.
pub(super) async fn declaring(db: &Db) -> Result<Tx, Error> {
    db.begin_at_start().await
}
