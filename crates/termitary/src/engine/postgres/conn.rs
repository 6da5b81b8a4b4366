//! A connection of a pool, or the transaction on one.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::error::Error;

/// Goes back to its pool when it is dropped; a transaction is rolled back first.
pub(in crate::engine) enum PgConn {
    Pooled(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

impl PgConn {
    pub(in crate::engine) async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Transaction(transaction) => Ok(transaction.commit().await?),
            Self::Pooled(_) => Err(Error::internal("this connection has no transaction")),
        }
    }

    pub(in crate::engine) async fn rollback(self) -> Result<(), Error> {
        match self {
            Self::Transaction(transaction) => Ok(transaction.rollback().await?),
            Self::Pooled(_) => Err(Error::internal("this connection has no transaction")),
        }
    }

    pub(in crate::engine) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Transaction(transaction) => transaction.rollback().await,
            Self::Pooled(conn) => conn.close().await,
        }
    }
}

impl Deref for PgConn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Pooled(conn) => conn,
            Self::Transaction(transaction) => transaction,
        }
    }
}

impl DerefMut for PgConn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(conn) => conn,
            Self::Transaction(transaction) => transaction,
        }
    }
}
