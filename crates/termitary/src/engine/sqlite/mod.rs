//! The SQLite engine: one connection for the transactions of users, one for the writes
//! of brokers, connections that read, and the wait for the disk. It knows no events:
//! the layer above runs its last statements through [`CommitHook`].

mod checkpoints;
mod commit_hook;
mod connection_slot;
mod connections;
mod disk;
mod engine;
mod facts;
mod file;
#[cfg(test)]
mod file_tests;
mod holder;
#[cfg(test)]
mod holder_tests;
mod last_connection;
mod lock_holder;
mod startup;
mod transaction;
mod turn;
mod turn_cell;
mod turns;
#[cfg(test)]
mod turns_tests;
mod url;
mod wal_owner;
mod writer;

pub(crate) use commit_hook::{AfterDisk, CommitHook, Work};
pub(crate) use connections::Pooled;
pub(crate) use engine::{Engine, Settings};
#[cfg(test)]
pub(crate) use engine::{LONG_READERS, READERS};
pub(crate) use facts::FileFacts;
#[cfg(test)]
pub(crate) use holder::WaitLimits;
pub(crate) use startup::{AT_START, until_unlocked, writable};
pub(crate) use transaction::{COMMIT, nothing_lost};
pub(super) use turn::Turn;
pub(super) use turn_cell::TurnCell;
pub(crate) use url::path_of;
pub(crate) use writer::Request;
