//! The database: one writer, several readers, and the transaction in which rows and
//! events become real together.

pub use crate::ledger::{Db, Options, Tx};
pub use crate::sqlite::{Conn, Reader, SqliteGuard};
