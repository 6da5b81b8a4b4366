//! The database: one writer, several readers, and the transaction in which rows and
//! events become real together.

pub use crate::ledger::{MoveProgress, move_to};

pub use crate::engine::sql;
pub use crate::engine::{Conn, Dialect, Reader, Sql, SqliteGuard};
pub use crate::ledger::{Db, Migration, Options, Sequence, Tx};
