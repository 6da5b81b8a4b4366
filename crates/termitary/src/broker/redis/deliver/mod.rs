//! Publishing to streams, and the way of a delivery through a worker: read from the stream,
//! admitted by the ledger, renewed, settled. Also counts and the history of a stream.

pub(crate) mod admit;
mod arrivals;
pub(crate) mod counts;
pub(crate) mod history;
pub(crate) mod leased;
pub(crate) mod publish;
pub(crate) mod reader;
pub(crate) mod renew;
pub(crate) mod settle;
