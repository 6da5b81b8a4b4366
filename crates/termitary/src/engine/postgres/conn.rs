//! A connection of a pool, or the transaction on one.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::engine::conn::no_transaction;
use crate::error::Error;

/// Goes back to its pool when it is dropped; a transaction is rolled back first.
pub(in crate::engine) struct PgConn {
    home: Home,
    /// The last statement failed or did not end: PostgreSQL may have given up the
    /// transaction, and would reply to its COMMIT with a rollback that is no error.
    doubt: bool,
}

enum Home {
    Pooled(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

impl PgConn {
    pub(super) fn pooled(conn: PoolConnection<Postgres>) -> Self {
        Self::at(Home::Pooled(conn))
    }

    pub(super) fn transaction(transaction: Transaction<'static, Postgres>) -> Self {
        Self::at(Home::Transaction(transaction))
    }

    fn at(home: Home) -> Self {
        Self { home, doubt: false }
    }

    /// The connection for a statement, and its doubt: until it is cleared, the statement
    /// counts as one that did not succeed.
    pub(in crate::engine) fn doubted(&mut self) -> (&mut PgConnection, &mut bool) {
        self.doubt = true;
        (self.home.conn(), &mut self.doubt)
    }

    pub(in crate::engine) async fn commit(mut self) -> Result<(), Error> {
        if self.doubt {
            sqlx::raw_sql("SELECT 1").execute(&mut *self).await?;
        }
        match self.home {
            Home::Transaction(transaction) => Ok(transaction.commit().await?),
            Home::Pooled(_) => Err(no_transaction()),
        }
    }

    pub(in crate::engine) async fn rollback(self) -> Result<(), Error> {
        match self.home {
            Home::Transaction(transaction) => Ok(transaction.rollback().await?),
            Home::Pooled(_) => Err(no_transaction()),
        }
    }

    pub(in crate::engine) async fn close(self) -> Result<(), sqlx::Error> {
        match self.home {
            Home::Transaction(transaction) => transaction.rollback().await,
            Home::Pooled(conn) => conn.close().await,
        }
    }
}

impl Home {
    fn conn(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(conn) => conn,
            Self::Transaction(transaction) => transaction,
        }
    }
}

impl Deref for PgConn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.home {
            Home::Pooled(conn) => conn,
            Home::Transaction(transaction) => transaction,
        }
    }
}

impl DerefMut for PgConn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.home.conn()
    }
}
