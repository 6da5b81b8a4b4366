//! Copying and comparing the rows of one table, page by page.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::MoveProgress;
use super::table::Table;
use crate::db::{Db, Sql};
use crate::error::Error;
use crate::fault;

/// The bytes of a page, and the most rows in one.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_ROWS: usize = 1_000;
/// The rows of the first page, before their size is known.
const FIRST_ROWS: usize = 100;

/// Reads the rows of a table in pages, in the order of its key.
struct Pages<'a> {
    source: &'a Db,
    table: &'a Table,
    after: Option<Vec<Value>>,
    rows: usize,
}

impl<'a> Pages<'a> {
    fn after(source: &'a Db, table: &'a Table, after: Option<Vec<Value>>) -> Self {
        Self {
            source,
            table,
            after,
            rows: FIRST_ROWS,
        }
    }

    /// The next rows; none at the end.
    async fn next(&mut self) -> Result<Vec<String>, Error> {
        let sql = AssertSqlSafe(self.table.page(self.after.is_some()));
        let mut query = sqlx::query_scalar::<Sql, String>(sql);
        for (place, value) in self.after.iter().flatten().enumerate() {
            query = match value {
                Value::Number(number) => query.bind(number.as_i64().unwrap_or_default()),
                Value::String(text) if self.table.key_is_bytes(place) => query.bind(unhex(text)),
                Value::String(text) => query.bind(text.clone()),
                _ => {
                    let name = &self.table.name;
                    return Err(Error::internal(format!("a key of {name} has no value")));
                }
            };
        }
        let rows: Vec<String> = query
            .bind(self.rows as i64)
            .fetch_all(&mut *self.source.read_long().await?)
            .await?;
        if let Some(last) = rows.last() {
            self.after = Some(self.table.key_of(last)?);
            let bytes: usize = rows.iter().map(String::len).sum();
            let of_a_row = (bytes / rows.len()).max(1);
            self.rows = (PAGE_BYTES / of_a_row).clamp(1, PAGE_ROWS);
        }
        Ok(rows)
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn array(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}

/// Copies the rows that the target does not have yet.
pub(super) async fn copy(
    source: &Db,
    target: &Db,
    table: &Table,
    progress: &mut impl FnMut(&MoveProgress),
) -> Result<(), Error> {
    let mut shown = shown(source, table, false).await?;
    shown.rows = count(target, table).await?;
    let last: Option<String> = sqlx::query_scalar(AssertSqlSafe(table.last()))
        .fetch_optional(&mut *target.read_long().await?)
        .await?;
    let last: Option<Vec<Value>> = match last {
        Some(key) => Some(super::super::gathered(&key)?),
        None => None,
    };
    let mut pages = Pages::after(source, table, last);
    loop {
        let rows = pages.next().await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = target.begin_own().await?;
        sqlx::query(AssertSqlSafe(table.insert()))
            .bind(array(&rows))
            .execute(&mut *tx)
            .await
            .map_err(|error| {
                let name = &table.name;
                Error::internal(format!("PostgreSQL does not take rows of {name}")).caused_by(error)
            })?;
        fault::point!("move.before_page");
        tx.commit().await?;
        fault::point!("move.after_page");
        shown.rows += rows.len() as u64;
        progress(&shown);
    }
}

/// Compares every row of the source with that of the target, and their numbers.
pub(super) async fn compare(
    source: &Db,
    target: &Db,
    table: &Table,
    progress: &mut impl FnMut(&MoveProgress),
) -> Result<u64, Error> {
    let mut shown = shown(source, table, true).await?;
    let there = count(target, table).await?;
    if there != shown.total {
        return Err(differs(
            table,
            &format!("{} rows here, {there} there", shown.total),
        ));
    }
    let mut pages = Pages::after(source, table, None);
    loop {
        let rows = pages.next().await?;
        if rows.is_empty() {
            return Ok(shown.rows);
        }
        let same: i64 = sqlx::query_scalar(AssertSqlSafe(table.same()))
            .bind(array(&rows))
            .fetch_one(&mut *target.read().await?)
            .await?;
        if same != rows.len() as i64 {
            let other = rows.len() as i64 - same;
            return Err(differs(table, &format!("{other} rows are not the same")));
        }
        shown.rows += rows.len() as u64;
        progress(&shown);
    }
}

fn differs(table: &Table, how: &str) -> Error {
    Error::invalid(format!(
        "table {} differs in the target: {how}. The source or the target was used meanwhile: stop every process, empty the target, and move again",
        table.name
    ))
}

async fn shown(source: &Db, table: &Table, compares: bool) -> Result<MoveProgress, Error> {
    Ok(MoveProgress {
        table: table.name.clone(),
        compares,
        rows: 0,
        total: count(source, table).await?,
    })
}

async fn count(db: &Db, table: &Table) -> Result<u64, Error> {
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(table.count()))
        .fetch_one(&mut *db.read_long().await?)
        .await?;
    Ok(count.unsigned_abs())
}
