//! The three verbs that run for every event, as PostgreSQL does them best: one statement
//! for a set of rows, with arrays of PostgreSQL's own.

mod claim;
#[cfg(all(test, feature = "testing"))]
mod in_flight_tests;
mod record;
mod settle;
#[cfg(all(test, feature = "testing"))]
mod sql_publish_tests;

pub(super) use claim::claim;
pub(super) use record::{is_one_statement, lease, record, record_bare, record_fanned};
pub(super) use settle::settle_done;
