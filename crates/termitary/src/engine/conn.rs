//! The connection that statements run on, in a transaction and outside one.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::SqliteConnection;
use tokio::sync::MappedMutexGuard;

#[cfg(feature = "postgres")]
use super::postgres::PgConn;
use super::sql::Step;
use super::sqlite::{Turn, TurnCell, Work};
use crate::error::Error;
use crate::lock::Mutex;

/// A database connection. SQL statements run on it: `query.execute(&mut *conn)`.
///
/// [`Tx`](crate::Tx), [`LedgerTx`](crate::handler::LedgerTx) and
/// [`Reader`](crate::Reader) dereference to it. A function that only runs
/// statements takes `&mut Conn` and serves all three, on SQLite and on PostgreSQL.
pub struct Conn(pub(super) Kind);

pub(super) enum Kind {
    /// A connection without another user.
    Own(SqliteConnection),
    Turn(InTurn),
    #[cfg(feature = "postgres")]
    Postgres(PgConn),
}

/// The engine that runs a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// The dialect of SQL that a database understands, for a statement that is not the same
/// in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

/// The connection of a transaction. Each statement borrows it for its own time:
/// between two statements the engine can end the transaction.
pub(super) struct InTurn {
    pub(super) cell: Arc<TurnCell>,
    pub(super) step: Next,
}

impl InTurn {
    async fn commit(self, left: Option<Work>) -> Result<(), Error> {
        let turn = self.cell.take()?;
        turn.leave_to_engine();
        if let Some(error) = self.cell.ended() {
            turn.rollback().await?;
            return Err(error);
        }
        turn.commit(left).await
    }
}

pub(super) fn no_transaction() -> Error {
    Error::internal("this connection has no transaction")
}

impl Drop for InTurn {
    fn drop(&mut self) {
        // On the runtime of the caller, even if the watchdog looks at the cell now.
        drop(self.cell.take());
    }
}

/// The step that a running statement hands to its stream.
pub(super) type Next = Mutex<Option<Step>>;

/// sqlx's own connection, lent by [`Conn::sqlite`].
pub struct SqliteGuard<'c>(Borrowed<'c>);

pub(super) enum Borrowed<'c> {
    Own(&'c mut SqliteConnection),
    Turn(MappedMutexGuard<'c, SqliteConnection>),
}

impl Conn {
    pub(super) fn own(conn: SqliteConnection) -> Self {
        Self(Kind::Own(conn))
    }

    #[cfg(feature = "postgres")]
    pub(super) fn in_postgres(conn: PgConn) -> Self {
        Self(Kind::Postgres(conn))
    }

    /// The engine that runs the statements of this connection.
    pub(crate) fn engine(&self) -> EngineKind {
        match &self.0 {
            Kind::Own(_) | Kind::Turn(_) => EngineKind::Sqlite,
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => EngineKind::Postgres,
        }
    }

    /// The dialect of the statements that run on this connection.
    pub fn dialect(&self) -> Dialect {
        match self.engine() {
            EngineKind::Sqlite => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            EngineKind::Postgres => Dialect::Postgres,
        }
    }

    pub(super) fn in_turn(turn: Turn) -> Self {
        Self(Kind::Turn(InTurn {
            cell: TurnCell::of(turn),
            step: Mutex::default(),
        }))
    }

    /// Lends sqlx's own connection to SQLite, for code that needs that type. While the
    /// guard lives, nobody can end the transaction: one that then stands still blocks
    /// every other writer.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the transaction was ended because it ran no statement
    /// for too long. `is_invalid()` if the database is not SQLite.
    pub fn sqlite(&mut self) -> Result<SqliteGuard<'_>, Error> {
        Ok(SqliteGuard(self.borrow()?))
    }

    /// Lends sqlx's own connection to PostgreSQL, for code that needs that type.
    ///
    /// # Errors
    ///
    /// `is_invalid()` if the database is not PostgreSQL.
    #[cfg(feature = "postgres")]
    pub fn postgres(&mut self) -> Result<&mut sqlx::PgConnection, Error> {
        match &mut self.0 {
            Kind::Postgres(conn) => Ok(conn.doubted().0),
            Kind::Own(_) | Kind::Turn(_) => Err(Error::invalid(
                "this connection is to SQLite, not to PostgreSQL",
            )),
        }
    }

    pub(super) fn borrow(&mut self) -> Result<Borrowed<'_>, sqlx::Error> {
        match &mut self.0 {
            Kind::Own(conn) => Ok(Borrowed::Own(conn)),
            Kind::Turn(turn) => Ok(Borrowed::Turn(turn.cell.borrow()?)),
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => Err(not_sqlite()),
        }
    }

    /// Makes the work of the transaction real; on SQLite with the last statements for
    /// `left`.
    pub(crate) async fn commit(self, left: Option<Work>) -> Result<(), Error> {
        match self.0 {
            Kind::Turn(turn) => turn.commit(left).await,
            Kind::Own(_) => Err(no_transaction()),
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => conn.commit().await,
        }
    }

    /// Undoes the work of the transaction.
    pub(crate) async fn rollback(self) -> Result<(), Error> {
        match self.0 {
            Kind::Turn(turn) => match turn.cell.take() {
                Ok(turn) => turn.rollback().await,
                Err(_) => Ok(()), // it was ended, which undid it
            },
            Kind::Own(_) => Err(no_transaction()),
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => conn.rollback().await,
        }
    }

    /// The connection, unless it is that of a transaction.
    pub(super) fn as_own(&mut self) -> Option<&mut SqliteConnection> {
        match &mut self.0 {
            Kind::Own(conn) => Some(conn),
            Kind::Turn(_) => None,
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => None,
        }
    }

    /// Returns the connection, unless it is that of a transaction.
    pub(super) fn into_own(self) -> Option<SqliteConnection> {
        match self.0 {
            Kind::Own(conn) => Some(conn),
            Kind::Turn(_) => None,
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => None,
        }
    }
}

#[cfg(feature = "postgres")]
fn not_sqlite() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(Error::invalid(
        "this connection is to PostgreSQL, not to SQLite",
    )))
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").finish_non_exhaustive()
    }
}

impl Deref for SqliteGuard<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for SqliteGuard<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

impl Deref for Borrowed<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Own(conn) => conn,
            Self::Turn(conn) => conn,
        }
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Own(conn) => conn,
            Self::Turn(conn) => conn,
        }
    }
}
