//! The one rule about who may change a delivery, and the words that differ between
//! dialects of SQL.
//!
//! Many rows reach a statement as one JSON array, `$1`: binding each value alone costs
//! more, and the text of the statement stays the same for every number of rows.

use serde::Serialize;

use crate::db::Conn;
use crate::engine::EngineKind;
use crate::error::Error;

/// A delivery by the `seq` of its event, its route and the fence it was leased under.
pub(crate) type Row = (i64, i64, i64);

/// A statement in the dialect of each engine: see [`statement`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statement {
    pub(super) sqlite: &'static str,
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "only PostgreSQL runs it")
    )]
    pub(super) postgres: &'static str,
}

impl Statement {
    /// The text for the engine of this connection.
    pub(crate) fn on(&self, conn: &Conn) -> &'static str {
        match conn.engine() {
            EngineKind::Sqlite => self.sqlite,
            #[cfg(feature = "postgres")]
            EngineKind::Postgres => self.postgres,
        }
    }
}

/// A statement of texts and, in brackets, of [`piece`]s that differ.
macro_rules! statement {
    ($($piece:tt),+ $(,)?) => {
        $crate::ledger::sql::Statement {
            sqlite: concat!($($crate::ledger::sql::piece!(sqlite $piece)),+),
            postgres: concat!($($crate::ledger::sql::piece!(postgres $piece)),+),
        }
    };
}

/// A part of a statement in one dialect.
macro_rules! piece {
    // The rows of the JSON array that is bound as `$1`, or so, under the name `j`.
    ($dialect:ident [rows]) => { $crate::ledger::sql::piece!($dialect [rows "$1"]) };
    (sqlite [rows $bound:literal]) => { concat!("json_each(", $bound, ") j") };
    (postgres [rows $bound:literal]) => {
        concat!("jsonb_array_elements(", $bound, "::jsonb) AS j (value)")
    };
    // The same as rusqlite binds them, too.
    (sqlite [rows_numbered $number:literal]) => { concat!("json_each(?", $number, ") j") };
    (postgres [rows_numbered $number:literal]) => {
        concat!("jsonb_array_elements($", $number, "::jsonb) AS j (value)")
    };
    (sqlite [numbered $number:literal]) => { concat!("?", $number) };
    (postgres [numbered $number:literal]) => { concat!("$", $number) };
    // A column of the rows: a number, or a text.
    (sqlite [int $place:literal]) => { concat!("j.value->>", $place) };
    (postgres [int $place:literal]) => { concat!("(j.value->>", $place, ")::bigint") };
    ($dialect:ident [text $place:literal]) => { concat!("j.value->>", $place) };
    // The rows where each is one value: a number, a text, an event's id.
    (sqlite [an_int]) => { "j.value" };
    (postgres [an_int]) => { "j.value::bigint" };
    (sqlite [a_uuid]) => { "unhex(j.value)" };
    (postgres [a_uuid]) => { "(j.value #>> '{}')::uuid" };
    // The set of the numbers or texts of a JSON array.
    (sqlite [ints $bound:literal]) => { concat!("(SELECT value FROM json_each(", $bound, "))") };
    (postgres [ints $bound:literal]) => {
        concat!("(SELECT value::bigint FROM jsonb_array_elements(", $bound, "::jsonb))")
    };
    (sqlite [texts $bound:literal]) => { concat!("(SELECT value FROM json_each(", $bound, "))") };
    (postgres [texts $bound:literal]) => {
        concat!("(SELECT jsonb_array_elements_text(", $bound, "::jsonb))")
    };
    // The set of the texts of an array that is a column of the rows.
    (sqlite [inner_texts $place:literal]) => {
        concat!("(SELECT n.value FROM json_each(j.value->>", $place, ") n)")
    };
    (postgres [inner_texts $place:literal]) => {
        concat!("(SELECT jsonb_array_elements_text(j.value->", $place, "))")
    };
    // All rows of a result as one JSON text.
    (sqlite [gathered $columns:literal]) => {
        concat!("json_group_array(json_array(", $columns, "))")
    };
    (postgres [gathered $columns:literal]) => {
        concat!("coalesce(json_agg(json_build_array(", $columns, ")), '[]')::text")
    };
    (sqlite [listed $column:literal]) => { concat!("json_group_array(", $column, ")") };
    (postgres [listed $column:literal]) => {
        concat!("coalesce(json_agg(", $column, "), '[]')::text")
    };
    // A column of bytes as a text.
    (sqlite [hex $column:literal]) => { concat!("hex(", $column, ")") };
    (postgres [hex $column:literal]) => { $column };
    // The delivery `d` is leased under this fence: only the holder of the newest lease
    // may change it. PostgreSQL would take the index of leases, which it believes empty.
    (sqlite [leased_under $fence:tt]) => {
        concat!("/* owner */ AND d.fence = ", $crate::ledger::sql::piece!(sqlite $fence), " AND d.state = 1")
    };
    (postgres [leased_under $fence:tt]) => {
        concat!("/* owner */ AND d.fence = ", $crate::ledger::sql::piece!(postgres $fence), " AND d.state + 0 = 1")
    };
    // Nobody holds the delivery, on Redis either.
    ($dialect:ident [free]) => { "worker = NULL, lease_us = NULL, entry = NULL" };
    // The delivery is done, at an instant.
    ($dialect:ident [done $at:literal]) => {
        concat!("state = 2, reason = NULL, settled_us = ", $at, ", ", $crate::ledger::sql::piece!($dialect [free]))
    };
    // Two statements of which the second depends on the first.
    (sqlite [after_cte $name:literal]) => { "" };
    (postgres [after_cte $name:literal]) => { concat!("WITH ", $name, " AS (") };
    (sqlite [then $name:literal]) => { "; " };
    (postgres [then $name:literal]) => { " RETURNING 1) " };
    (sqlite [changed $name:literal]) => { "changes() = 1" };
    (postgres [changed $name:literal]) => { concat!("EXISTS (SELECT 1 FROM ", $name, ")") };
    // The newest event, if it is known in the transaction.
    (sqlite [newest_event]) => { "(SELECT COALESCE(MAX(seq), 0) FROM termitary_events)" };
    (postgres [newest_event]) => { "NULL" };
    // The event `e` reaches a subscription. On PostgreSQL it is not from before its route.
    (sqlite [reaches $subscription:literal]) => {
        concat!("e.name IN (SELECT event FROM termitary_routes WHERE subscription = ", $subscription, ")")
    };
    (postgres [reaches $subscription:literal]) => {
        concat!(
            "EXISTS (SELECT 1 FROM termitary_routes r WHERE r.event = e.name AND r.subscription = ", $subscription,
            " AND NOT coalesce(pg_visible_in_snapshot(e.xid, r.snapshot), false))"
        )
    };
    // One row, made once the transaction has its id: a `seq` that the statement takes comes
    // after it (see `Horizon`).
    (sqlite [began]) => { "" };
    (postgres [began]) => { " FROM (SELECT pg_current_xact_id() OFFSET 0) AS began" };
    // The delivery `d` belongs to a subscription: on PostgreSQL a publish may owe one to a
    // subscription that is dropped meanwhile.
    (sqlite [of_a_subscription]) => { "" };
    (postgres [of_a_subscription]) => {
        " AND EXISTS (SELECT 1 FROM termitary_subscriptions s WHERE s.id = d.subscription)"
    };
    // An index that SQLite is told to use.
    (sqlite [by $index:literal]) => { concat!(" INDEXED BY ", $index) };
    (postgres [by $index:literal]) => { "" };
    // A macro of texts that are the same everywhere.
    ($dialect:ident ($same:ident)) => { $same!() };
    ($dialect:ident $text:literal) => { $text };
}

/// Changes the deliveries of [`rows`](piece) (`seq`, route, fence and whatever the change
/// needs) that are leased under their fence.
macro_rules! held {
    ([$($set:tt),+] $($rest:tt)*) => {
        $crate::ledger::sql::statement!(
            "UPDATE termitary_deliveries AS d SET ",
            $($set,)+
            " FROM ", [rows],
            " WHERE d.event = ", [int 0], " AND d.subscription = ", [int 1],
            " ", [leased_under [int 2]]
            $($rest)*
        )
    };
}

/// The columns of the deliveries that a [`held`] changed.
macro_rules! held_returning {
    ([$($set:tt),+] $($rest:tt)*) => {
        $crate::ledger::sql::held!([$($set),+] $($rest)*, " RETURNING event, subscription, fence")
    };
}

pub(crate) use {held, held_returning, piece, statement};

/// `rows` as a statement takes them.
pub(super) fn json(rows: &impl Serialize) -> String {
    serde_json::json!(rows).to_string()
}

/// Numbers as PostgreSQL reads an array of them from a text.
#[cfg(feature = "postgres")]
pub(super) fn array(numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// Runs a [`held`] without other values; returns how many deliveries it changed.
pub(super) async fn change(
    conn: &mut Conn,
    held: Statement,
    rows: &impl Serialize,
) -> Result<u64, Error> {
    let done = sqlx::query(held.on(conn))
        .bind(json(rows))
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}
