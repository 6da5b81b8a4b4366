//! A connection that is not ours.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::{Describe, Execute, Executor, SqlStr, SqliteConnection};

use super::executor::{execute, many, not_described, optional};
use super::sql::{self, Sql, SqlQueryResult, SqlRow, SqlStatement, SqlTypeInfo, Step};

/// sqlx's own connection to SQLite, for the statements of the ledger.
#[derive(Debug)]
pub(crate) struct LentSqlite<'c>(&'c mut SqliteConnection);

impl<'c> LentSqlite<'c> {
    pub(crate) fn new(conn: &'c mut SqliteConnection) -> Self {
        Self(conn)
    }
}

impl<'c> Executor<'c> for &'c mut LentSqlite<'_> {
    type Database = Sql;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<SqlQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        Box::pin(execute(&mut *self.0, sql::sqlite(query)))
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        many(&mut *self.0, sql::sqlite(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqlRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        Box::pin(optional(&mut *self.0, sql::sqlite(query)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        _parameters: &'e [SqlTypeInfo],
    ) -> BoxFuture<'e, Result<SqlStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.0.prepare(sql).await.map(SqlStatement::from) })
    }

    #[doc(hidden)]
    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, Result<Describe<Sql>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(std::future::ready(Err(not_described())))
    }
}
