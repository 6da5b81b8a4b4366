//! The traits by which sqlx knows a connection: transactions in a transaction
//! (savepoints) are begun with `sqlx::Connection::begin`.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use sqlx::{ConnectOptions, Connection, Error, SqlStr, Transaction};
use sqlx_core::Url;
use sqlx_core::transaction::TransactionManager;

use super::Sql;
use crate::engine::Conn;

/// Nothing: a [`Conn`] comes from a [`Db`](crate::Db) alone.
#[derive(Clone, Debug)]
pub enum SqlConnectOptions {}

fn only_from_a_db() -> Error {
    Error::Configuration("open the database with `Db::open`, and get connections from it".into())
}

impl FromStr for SqlConnectOptions {
    type Err = Error;

    fn from_str(_: &str) -> Result<Self, Error> {
        Err(only_from_a_db())
    }
}

impl ConnectOptions for SqlConnectOptions {
    type Connection = Conn;

    fn from_url(_: &Url) -> Result<Self, Error> {
        Err(only_from_a_db())
    }

    async fn connect(&self) -> Result<Conn, Error> {
        match *self {}
    }

    fn log_statements(self, _: LevelFilter) -> Self {
        self
    }

    fn log_slow_statements(self, _: LevelFilter, _: Duration) -> Self {
        self
    }
}

impl Connection for Conn {
    type Database = Sql;
    type Options = SqlConnectOptions;

    async fn close(self) -> Result<(), Error> {
        self.close_engine().await
    }

    async fn close_hard(self) -> Result<(), Error> {
        self.close_engine().await
    }

    async fn ping(&mut self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(self).await.map(drop)
    }

    fn begin(&mut self) -> impl Future<Output = Result<Transaction<'_, Sql>, Error>> + Send + '_ {
        Transaction::begin(self, None)
    }

    fn shrink_buffers(&mut self) {}

    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn should_flush(&self) -> bool {
        false
    }
}

/// Begins and ends savepoints.
#[derive(Debug)]
pub struct SqlTransactionManager;

impl TransactionManager for SqlTransactionManager {
    type Database = Sql;

    async fn begin(conn: &mut Conn, statement: Option<SqlStr>) -> Result<(), Error> {
        conn.begin_nested(statement).await
    }

    async fn commit(conn: &mut Conn) -> Result<(), Error> {
        conn.commit_nested().await
    }

    async fn rollback(conn: &mut Conn) -> Result<(), Error> {
        conn.rollback_nested().await
    }

    fn start_rollback(conn: &mut Conn) {
        conn.start_rollback_nested();
    }

    fn get_transaction_depth(conn: &Conn) -> usize {
        conn.depth()
    }
}
