//! From the ledger to the streams: the process that commits an event carries it there, and
//! the relay moves everything else that is due.

pub(crate) mod carry;
pub(crate) mod due;
pub(crate) mod record;
pub(crate) mod refused;
