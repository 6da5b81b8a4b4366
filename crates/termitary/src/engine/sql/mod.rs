//! One sqlx database type for both engines: a statement that both understand is written
//! once, and runs on the connection that it gets (decision 0013).
//!
//! A value is bound before the engine is known, so arguments are kept as values and
//! become the engine's own when the statement runs. Rows stay the engine's own.

mod arguments;
mod column;
mod connection;
mod row;
mod run;
mod statement;
mod type_info;
mod types;
mod value;

pub use arguments::SqlArguments;
pub use column::SqlColumn;
pub use connection::{SqlConnectOptions, SqlTransactionManager};
pub use row::{SqlQueryResult, SqlRow};
pub use statement::SqlStatement;
pub use type_info::SqlTypeInfo;
pub use value::{SqlValue, SqlValueRef};

#[cfg(feature = "postgres")]
pub(super) use run::postgres;
pub(super) use run::sqlite;
pub(super) use run::{Forward, Step, mapped};

use super::Conn;

/// The database type of statements that run on every engine. [`Conn`], [`Tx`](crate::Tx)
/// and [`Reader`](crate::Reader) take `sqlx::query(…)` of this type; `sqlx` infers it.
///
/// It knows integers, `bool`, `f64`, text, bytes and `uuid::Uuid`, each also as an
/// `Option`. Types of one engine alone are used through [`Conn::sqlite`] or
/// [`Conn::postgres`].
#[derive(Debug)]
pub struct Sql;

impl sqlx::Database for Sql {
    type Connection = Conn;
    type TransactionManager = SqlTransactionManager;
    type Row = SqlRow;
    type QueryResult = SqlQueryResult;
    type Column = SqlColumn;
    type TypeInfo = SqlTypeInfo;
    type Value = SqlValue;
    type ValueRef<'r> = SqlValueRef<'r>;
    type Arguments = SqlArguments;
    type ArgumentBuffer = Vec<arguments::Argument>;
    type Statement = SqlStatement;

    const NAME: &'static str = "SQL";
    const URL_SCHEMES: &'static [&'static str] = &[];
}
