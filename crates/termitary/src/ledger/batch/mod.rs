//! The three verbs that run for every event on SQLite, on the thread that writes
//! ([`Db::write`](crate::db::Db)): few statements for many rows, since the start
//! of one costs as much as a row or two.

mod lease;
mod publish;
mod settle;

pub(super) use lease::lease;
pub(crate) use publish::publish;
pub(crate) use settle::settle;

use rusqlite::{CachedStatement, Connection, Statement, ToSql};

use super::SIZES;
use crate::error::Error;

/// Of each kind the statement for one row.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    [lease::HEAD, publish::ROUTES, publish::FIRST]
        .map(str::to_owned)
        .into_iter()
        .chain([lease::CLAIM.0[0].clone(), settle::DONE.0[0].clone()])
        .collect()
}

/// One statement for each number of rows in [`SIZES`].
struct Sized(Vec<String>);

impl Sized {
    fn new(sql: impl Fn(usize) -> String) -> Self {
        Self(SIZES.iter().map(|&rows| sql(rows)).collect())
    }

    /// The statement for the largest number of rows that `rest` has, and that
    /// number.
    fn at_most<'a>(
        &self,
        conn: &'a Connection,
        rest: usize,
    ) -> Result<(CachedStatement<'a>, usize), Error> {
        let place = SIZES.partition_point(|&size| size <= rest) - 1;
        Ok((conn.prepare_cached(&self.0[place])?, SIZES[place]))
    }

    /// The statement for the least number of rows that all of `rest` fit into,
    /// and how many of them it takes: what is not bound is null.
    fn at_least<'a>(
        &self,
        conn: &'a Connection,
        rest: usize,
    ) -> Result<(CachedStatement<'a>, usize), Error> {
        let (place, rows) = super::size_for(rest);
        let mut statement = conn.prepare_cached(&self.0[place])?;
        statement.clear_bindings();
        Ok((statement, rows))
    }
}

/// `item` so many times, with commas.
fn list(item: &str, times: usize) -> String {
    vec![item; times].join(",")
}

/// Binds one value after the other.
struct Binder<'a, 'c> {
    statement: &'a mut Statement<'c>,
    bound: usize,
}

impl<'a, 'c> Binder<'a, 'c> {
    fn new(statement: &'a mut Statement<'c>) -> Self {
        Self {
            statement,
            bound: 0,
        }
    }

    fn next(&mut self, value: impl ToSql) -> Result<(), Error> {
        self.bound += 1;
        Ok(self.statement.raw_bind_parameter(self.bound, value)?)
    }
}
