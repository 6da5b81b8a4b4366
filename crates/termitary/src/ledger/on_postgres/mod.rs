//! The three verbs that run for every event, as PostgreSQL does them best: one statement
//! for a set of rows, with arrays of PostgreSQL's own.

mod claim;
mod record;
mod settle;

pub(super) use claim::claim;
pub(super) use record::{is_one_statement, lease, record, record_bare, record_fanned};
pub(super) use settle::settle_done;
