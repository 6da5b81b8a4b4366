//! A row, as the engine returned it.

use std::fmt;
use std::sync::OnceLock;

use sqlx::{Column, ColumnIndex, Error, Row};

use super::type_info::Kind;
use super::value::Borrowed;
use super::{Sql, SqlColumn, SqlTypeInfo, SqlValueRef};

/// A row of a result.
pub struct SqlRow {
    row: Engine,
    /// Only few callers list columns.
    columns: OnceLock<Vec<SqlColumn>>,
}

enum Engine {
    Sqlite(sqlx::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
}

impl SqlRow {
    fn of(row: Engine) -> Self {
        Self {
            row,
            columns: OnceLock::new(),
        }
    }
}

impl From<sqlx::sqlite::SqliteRow> for SqlRow {
    fn from(row: sqlx::sqlite::SqliteRow) -> Self {
        Self::of(Engine::Sqlite(row))
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::postgres::PgRow> for SqlRow {
    fn from(row: sqlx::postgres::PgRow) -> Self {
        Self::of(Engine::Postgres(row))
    }
}

impl Row for SqlRow {
    type Database = Sql;

    fn len(&self) -> usize {
        match &self.row {
            Engine::Sqlite(row) => row.len(),
            #[cfg(feature = "postgres")]
            Engine::Postgres(row) => row.len(),
        }
    }

    fn columns(&self) -> &[SqlColumn] {
        self.columns.get_or_init(|| match &self.row {
            Engine::Sqlite(row) => sqlite_columns(row.columns()),
            #[cfg(feature = "postgres")]
            Engine::Postgres(row) => postgres_columns(row.columns()),
        })
    }

    fn try_get_raw<I>(&self, index: I) -> Result<SqlValueRef<'_>, Error>
    where
        I: ColumnIndex<Self>,
    {
        let index = index.index(self)?;
        Ok(SqlValueRef(match &self.row {
            Engine::Sqlite(row) => Borrowed::Sqlite(row.try_get_raw(index)?),
            #[cfg(feature = "postgres")]
            Engine::Postgres(row) => Borrowed::Postgres(row.try_get_raw(index)?),
        }))
    }
}

impl ColumnIndex<SqlRow> for usize {
    fn index(&self, row: &SqlRow) -> Result<usize, Error> {
        let len = row.len();
        if *self < len {
            Ok(*self)
        } else {
            Err(Error::ColumnIndexOutOfBounds { len, index: *self })
        }
    }
}

impl ColumnIndex<SqlRow> for &'_ str {
    fn index(&self, row: &SqlRow) -> Result<usize, Error> {
        match &row.row {
            Engine::Sqlite(row) => self.index(row),
            #[cfg(feature = "postgres")]
            Engine::Postgres(row) => self.index(row),
        }
    }
}

impl fmt::Debug for SqlRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.columns().iter().map(Column::name);
        f.debug_list().entries(names).finish()
    }
}

pub(super) fn sqlite_columns(columns: &[sqlx::sqlite::SqliteColumn]) -> Vec<SqlColumn> {
    let info = |column: &sqlx::sqlite::SqliteColumn| column.type_info().clone();
    columns
        .iter()
        .map(|column| SqlColumn::new(column, SqlTypeInfo(Kind::Sqlite(info(column)))))
        .collect()
}

#[cfg(feature = "postgres")]
pub(super) fn postgres_columns(columns: &[sqlx::postgres::PgColumn]) -> Vec<SqlColumn> {
    let info = |column: &sqlx::postgres::PgColumn| column.type_info().clone();
    columns
        .iter()
        .map(|column| SqlColumn::new(column, SqlTypeInfo(Kind::Postgres(info(column)))))
        .collect()
}

/// The number of rows that a statement changed.
#[derive(Debug, Default)]
pub struct SqlQueryResult {
    rows_affected: u64,
    last_insert_rowid: i64,
}

impl SqlQueryResult {
    /// The number of rows that were inserted, updated or deleted.
    pub fn rows_affected(&self) -> u64 {
        self.rows_affected
    }

    /// SQLite's number of the last row that was inserted on the connection.
    pub(crate) fn last_insert_rowid(&self) -> i64 {
        self.last_insert_rowid
    }
}

impl From<sqlx::sqlite::SqliteQueryResult> for SqlQueryResult {
    fn from(done: sqlx::sqlite::SqliteQueryResult) -> Self {
        Self {
            rows_affected: done.rows_affected(),
            last_insert_rowid: done.last_insert_rowid(),
        }
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::postgres::PgQueryResult> for SqlQueryResult {
    fn from(done: sqlx::postgres::PgQueryResult) -> Self {
        Self {
            rows_affected: done.rows_affected(),
            last_insert_rowid: 0,
        }
    }
}

impl Extend<Self> for SqlQueryResult {
    fn extend<T: IntoIterator<Item = Self>>(&mut self, more: T) {
        for one in more {
            self.rows_affected += one.rows_affected;
            self.last_insert_rowid = one.last_insert_rowid;
        }
    }
}
