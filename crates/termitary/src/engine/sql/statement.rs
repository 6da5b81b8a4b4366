//! A statement that was prepared.

use sqlx::{Column as _, ColumnIndex, Either, Error, SqlStr, Statement};

#[cfg(feature = "postgres")]
use super::row::postgres_columns;
use super::row::sqlite_columns;
use super::{Sql, SqlArguments, SqlColumn, SqlTypeInfo};

/// A statement that was prepared, with the columns of its result.
#[derive(Clone, Debug)]
pub struct SqlStatement {
    sql: SqlStr,
    parameters: usize,
    columns: Vec<SqlColumn>,
}

impl From<sqlx::sqlite::SqliteStatement> for SqlStatement {
    fn from(statement: sqlx::sqlite::SqliteStatement) -> Self {
        Self {
            parameters: number(statement.parameters()),
            columns: sqlite_columns(statement.columns()),
            sql: statement.into_sql(),
        }
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::postgres::PgStatement> for SqlStatement {
    fn from(statement: sqlx::postgres::PgStatement) -> Self {
        Self {
            parameters: number(statement.parameters()),
            columns: postgres_columns(statement.columns()),
            sql: statement.into_sql(),
        }
    }
}

fn number<T>(parameters: Option<Either<&[T], usize>>) -> usize {
    match parameters {
        None => 0,
        Some(Either::Left(each)) => each.len(),
        Some(Either::Right(number)) => number,
    }
}

impl Statement for SqlStatement {
    type Database = Sql;

    fn into_sql(self) -> SqlStr {
        self.sql
    }

    fn sql(&self) -> &SqlStr {
        &self.sql
    }

    fn parameters(&self) -> Option<Either<&[SqlTypeInfo], usize>> {
        Some(Either::Right(self.parameters))
    }

    fn columns(&self) -> &[SqlColumn] {
        &self.columns
    }

    sqlx_core::impl_statement_query!(SqlArguments);
}

impl ColumnIndex<SqlStatement> for usize {
    fn index(&self, statement: &SqlStatement) -> Result<usize, Error> {
        let len = statement.columns.len();
        if *self < len {
            Ok(*self)
        } else {
            Err(Error::ColumnIndexOutOfBounds { len, index: *self })
        }
    }
}

impl ColumnIndex<SqlStatement> for &'_ str {
    fn index(&self, statement: &SqlStatement) -> Result<usize, Error> {
        let mut columns = statement.columns.iter();
        columns
            .position(|column| column.name() == *self)
            .ok_or_else(|| Error::ColumnNotFound((*self).to_owned()))
    }
}
