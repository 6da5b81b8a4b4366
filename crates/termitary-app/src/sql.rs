//! The words of SQL that are not the same on SQLite and on PostgreSQL.
//!
//! A statement that both understand is a plain text. One that differs is a [`statement`]
//! of texts and pieces, and is written once, too.

use std::borrow::Cow;

use sqlx::{Row as _, query};
use termitary::Conn;
use termitary::db::Dialect;
use termitary::db::sql::SqlRow;

/// A statement in both dialects.
#[derive(Clone, Copy)]
pub(crate) struct Statement {
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

impl Statement {
    /// The text for this connection.
    pub(crate) fn on(self, conn: &Conn) -> &'static str {
        self.of(conn.dialect())
    }

    /// The text in this dialect.
    pub(crate) fn of(self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }
}

/// A [`Statement`] of texts and, in brackets, of [`piece`]s that differ.
macro_rules! statement {
    ($($piece:tt),+ $(,)?) => {
        $crate::sql::Statement {
            sqlite: concat!($($crate::sql::piece!(sqlite $piece)),+),
            postgres: concat!($($crate::sql::piece!(postgres $piece)),+),
        }
    };
}

/// A part of a statement in one dialect.
macro_rules! piece {
    // The texts of a JSON array that is bound, as the rows `q`: `value`, and `key`, its
    // place from 0.
    (sqlite [texts $bound:literal]) => {
        concat!("json_each(", $bound, ") q")
    };
    (postgres [texts $bound:literal]) => {
        concat!(
            "(SELECT value, nth - 1 AS key FROM jsonb_array_elements_text(",
            $bound,
            "::jsonb) WITH ORDINALITY AS q (value, nth)) q"
        )
    };
    // The value of such a row: bytes in hexadecimal digits, or a UUID.
    (sqlite [a_hash]) => {
        "unhex(q.value)"
    };
    (postgres [a_hash]) => {
        "decode(q.value, 'hex')"
    };
    (sqlite [a_uuid]) => {
        "unhex(q.value, '-')"
    };
    (postgres [a_uuid]) => {
        "q.value::uuid"
    };
    // A UUID in JSON, and one that may be null.
    (sqlite [json_id $column:literal]) => {
        concat!("hex(", $column, ")")
    };
    (postgres [json_id $column:literal]) => {
        $column
    };
    (sqlite [json_uuid $column:literal]) => {
        concat!("iif(", $column, " IS NULL, NULL, hex(", $column, "))")
    };
    (postgres [json_uuid $column:literal]) => {
        $column
    };
    // A text in JSON, whatever type a column of SQLite has.
    (sqlite [json_text $column:literal]) => {
        concat!("CAST(", $column, " AS TEXT)")
    };
    (postgres [json_text $column:literal]) => {
        $column
    };
    // The first of the columns of a JSON array, and its end.
    (sqlite [json_array]) => {
        "json_array("
    };
    (postgres [json_array]) => {
        "json_build_array("
    };
    // All rows as one JSON array.
    (sqlite [gather]) => {
        "json_group_array("
    };
    (postgres [gather]) => {
        "coalesce(json_agg("
    };
    (sqlite [gathered]) => {
        ")"
    };
    (postgres [gathered]) => {
        "), '[]')::text"
    };
    // The outer table of a join; SQLite keeps its order.
    (sqlite [join]) => {
        "CROSS JOIN"
    };
    (postgres [join]) => {
        "JOIN"
    };
    // Rows without a limit, which an OFFSET or an order in a part of SQLite needs.
    (sqlite [no_limit]) => {
        " LIMIT -1"
    };
    (postgres [no_limit]) => {
        ""
    };
    // The order in which rows of `stream_tickets` were written.
    (sqlite [nth]) => {
        "rowid"
    };
    (postgres [nth]) => {
        "nth"
    };
    // The fastest way back to a row.
    (sqlite [place]) => {
        "rowid"
    };
    (postgres [place]) => {
        "id"
    };
    // The rows stay as they are read until the transaction ends: SQLite has one writer.
    (sqlite [to_change]) => {
        ""
    };
    (postgres [to_change]) => {
        " FOR UPDATE"
    };
    (sqlite [to_change $table:literal]) => {
        ""
    };
    (postgres [to_change $table:literal]) => {
        concat!(" FOR UPDATE OF ", $table)
    };
    // They are not deleted until then.
    (sqlite [to_refer_to]) => {
        ""
    };
    (postgres [to_refer_to]) => {
        " FOR KEY SHARE"
    };
    // A text of a macro.
    ($dialect:ident ($same:ident $text:literal)) => {
        $same!($text)
    };
    ($dialect:ident $text:literal) => {
        $text
    };
}

pub(crate) use {piece, statement};

/// Waits until no other transaction works under this name, for one that changes rows by
/// what it reads of others. SQLite has one writer anyway.
pub(crate) async fn take_turn(conn: &mut Conn, name: &str) -> sqlx::Result<()> {
    if conn.dialect() == Dialect::Postgres {
        query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("termitary todo {name}"))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// A text as PostgreSQL stores it, which knows no zero byte.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// A text of a row; on SQLite the column may hold what is not UTF-8.
pub(crate) fn lossy(row: &SqlRow, column: usize) -> sqlx::Result<Cow<'_, str>> {
    Ok(lossy_or_null(row, column)?.unwrap_or_default())
}

/// [`lossy`] for a column that may be null.
pub(crate) fn lossy_or_null(row: &SqlRow, column: usize) -> sqlx::Result<Option<Cow<'_, str>>> {
    if let Ok(text) = row.try_get::<Option<&str>, _>(column) {
        return Ok(text.map(Cow::Borrowed));
    }
    let bytes: Option<&[u8]> = row.try_get(column)?;
    Ok(bytes.map(String::from_utf8_lossy))
}
