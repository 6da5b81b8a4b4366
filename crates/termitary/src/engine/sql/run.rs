//! Statements on their way to an engine.

use sqlx::{Database, Either, Error, Execute, SqlStr};

use super::{Sql, SqlArguments, SqlQueryResult, SqlRow};

/// A row, or the end of a statement.
pub(crate) type Step = Result<Either<SqlQueryResult, SqlRow>, Error>;

/// A statement with the arguments of one engine.
pub(in crate::engine) struct Forward<DB: Database> {
    sql: SqlStr,
    arguments: Option<DB::Arguments>,
    persistent: bool,
}

impl<DB: Database> Execute<'_, DB> for Forward<DB> {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&DB::Statement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// The statement for SQLite.
pub(in crate::engine) fn sqlite<'q>(
    query: impl Execute<'q, Sql>,
) -> Result<Forward<sqlx::Sqlite>, Error> {
    forward(query, SqlArguments::into_sqlite)
}

/// The statement for PostgreSQL.
#[cfg(feature = "postgres")]
pub(in crate::engine) fn postgres<'q>(
    query: impl Execute<'q, Sql>,
) -> Result<Forward<sqlx::Postgres>, Error> {
    forward(query, SqlArguments::into_postgres)
}

fn forward<'q, DB: Database>(
    mut query: impl Execute<'q, Sql>,
    arguments: impl FnOnce(SqlArguments) -> Result<DB::Arguments, sqlx::error::BoxDynError>,
) -> Result<Forward<DB>, Error> {
    let bound = query.take_arguments().map_err(Error::Encode)?;
    Ok(Forward {
        arguments: bound.map(arguments).transpose().map_err(Error::Encode)?,
        persistent: query.persistent(),
        sql: query.sql(),
    })
}

/// A step of an engine as a step of [`Sql`].
pub(in crate::engine) fn mapped<Q, R>(step: Result<Either<Q, R>, Error>) -> Step
where
    SqlQueryResult: From<Q>,
    SqlRow: From<R>,
{
    step.map(|step| step.map_left(SqlQueryResult::from).map_right(SqlRow::from))
}
