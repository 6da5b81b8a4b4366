//! The PostgreSQL engine: pools for the transactions of users, for the statements of
//! brokers and for reads. It knows no events.

mod conn;
mod connect;
mod engine;
mod facts;
mod horizon;
mod news;

pub(super) use conn::PgConn;
pub(crate) use connect::Settings;
pub(crate) use engine::Engine;
pub(crate) use facts::{OpenTransaction, ServerFacts, Slot};
pub(crate) use horizon::Horizon;
