//! The one rule about who may change a delivery, and the words that differ between
//! dialects of SQL.
//!
//! Many rows reach a statement as one JSON array, `$1`: binding each value alone costs
//! more, and the text of the statement stays the same for every number of rows.

use serde::Serialize;

use crate::db::Conn;
use crate::error::Error;

/// A delivery by the `seq` of its event, its route and the fence it was leased under.
pub(crate) type Row = (i64, i64, i64);

/// The rows of the JSON array that is bound as `$1`, under the name `j`.
macro_rules! rows {
    () => {
        $crate::ledger::sql::rows!("$1")
    };
    ($bound:literal) => {
        concat!("json_each(", $bound, ") j")
    };
}

/// A column of [`rows`].
macro_rules! column {
    ($place:literal) => {
        concat!("j.value->>", $place)
    };
}

/// The set of values in a JSON array that is bound.
macro_rules! set {
    ($bound:literal) => {
        concat!("(SELECT value FROM json_each(", $bound, "))")
    };
}

/// The delivery `d` is leased under this fence: only the holder of the newest lease may
/// change it.
macro_rules! leased_under {
    ($fence:expr) => {
        concat!("/* owner */ AND d.fence = ", $fence, " AND d.state = 1")
    };
}

/// Changes the deliveries of [`rows`] (`seq`, route, fence and whatever the change needs)
/// that are leased under their fence.
macro_rules! held {
    ($($set:expr),+) => {
        concat!(
            "UPDATE termitary_deliveries AS d SET ",
            $($set,)+
            " FROM ", $crate::ledger::sql::rows!(),
            " WHERE d.event = ", $crate::ledger::sql::column!(0), " AND d.subscription = ", $crate::ledger::sql::column!(1),
            " ", $crate::ledger::sql::leased_under!($crate::ledger::sql::column!(2))
        )
    };
}

/// Nobody holds the delivery, on Redis either.
macro_rules! free {
    () => {
        "worker = NULL, lease_us = NULL, entry = NULL"
    };
}

/// The delivery is done, at an instant.
macro_rules! done {
    ($at:literal) => {
        concat!(
            "state = 2, reason = NULL, settled_us = ",
            $at,
            ", ",
            $crate::ledger::sql::free!()
        )
    };
}

pub(crate) use {column, done, free, held, leased_under, rows, set};

/// Returns the deliveries that a [`held`] changed.
macro_rules! returning {
    ($statement:expr) => {
        concat!($statement, " RETURNING event, subscription, fence")
    };
}
pub(crate) use returning;

/// `rows` as a statement takes them.
pub(super) fn json(rows: &impl Serialize) -> String {
    serde_json::json!(rows).to_string()
}

/// Runs a [`held`] without other values; returns how many deliveries it changed.
pub(super) async fn change(
    conn: &mut Conn,
    held: &'static str,
    rows: &impl Serialize,
) -> Result<u64, Error> {
    let done = sqlx::query(held).bind(json(rows)).execute(conn).await?;
    Ok(done.rows_affected())
}
