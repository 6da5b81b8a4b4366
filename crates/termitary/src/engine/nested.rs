//! Transactions in a transaction (savepoints), which sqlx begins and ends.

use sqlx::SqlStr;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgTransactionManager;
use sqlx::sqlite::SqliteTransactionManager;
use sqlx_core::transaction::TransactionManager;

use super::conn::{Conn, Kind};

impl Conn {
    pub(super) async fn close_engine(self) -> Result<(), sqlx::Error> {
        use sqlx::Connection as _;
        match self.0 {
            Kind::Own(conn) => conn.close().await,
            Kind::Turn(turn) => {
                drop(turn);
                Ok(())
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => conn.close().await,
        }
    }

    pub(super) async fn begin_nested(
        &mut self,
        statement: Option<SqlStr>,
    ) -> Result<(), sqlx::Error> {
        #[cfg(feature = "postgres")]
        if let Kind::Postgres(conn) = &mut self.0 {
            return PgTransactionManager::begin(conn, statement).await;
        }
        SqliteTransactionManager::begin(&mut *self.borrow()?, statement).await
    }

    pub(super) async fn commit_nested(&mut self) -> Result<(), sqlx::Error> {
        #[cfg(feature = "postgres")]
        if let Kind::Postgres(conn) = &mut self.0 {
            return PgTransactionManager::commit(conn).await;
        }
        SqliteTransactionManager::commit(&mut *self.borrow()?).await
    }

    pub(super) async fn rollback_nested(&mut self) -> Result<(), sqlx::Error> {
        #[cfg(feature = "postgres")]
        if let Kind::Postgres(conn) = &mut self.0 {
            return PgTransactionManager::rollback(conn).await;
        }
        SqliteTransactionManager::rollback(&mut *self.borrow()?).await
    }

    pub(super) fn start_rollback_nested(&mut self) {
        #[cfg(feature = "postgres")]
        if let Kind::Postgres(conn) = &mut self.0 {
            return PgTransactionManager::start_rollback(conn);
        }
        // An error: the transaction was ended, and its savepoints with it.
        if let Ok(mut conn) = self.borrow() {
            SqliteTransactionManager::start_rollback(&mut conn);
        }
    }

    /// The number of transactions that are open in each other.
    pub(super) fn depth(&self) -> usize {
        match &self.0 {
            Kind::Own(conn) => SqliteTransactionManager::get_transaction_depth(conn),
            Kind::Turn(turn) => turn.cell.borrow().map_or(0, |conn| {
                SqliteTransactionManager::get_transaction_depth(&conn)
            }),
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => PgTransactionManager::get_transaction_depth(conn),
        }
    }
}
