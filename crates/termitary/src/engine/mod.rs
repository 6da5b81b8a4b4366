//! The engines of the databases: SQLite and PostgreSQL. They know no events.

mod conn;
mod executor;
mod lent;
mod nested;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod reader;
pub mod sql;
pub(crate) mod sqlite;

pub(crate) use conn::EngineKind;
pub use conn::{Conn, Dialect, SqliteGuard};
pub(crate) use lent::LentSqlite;
pub(crate) use reader::Home;
pub use reader::Reader;
pub use sql::Sql;

/// The engine of a database that is open.
pub(crate) enum Engine {
    Sqlite(sqlite::Engine),
    #[cfg(feature = "postgres")]
    Postgres(Box<postgres::Engine>),
}

/// An identifier in quotes, for both databases.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
