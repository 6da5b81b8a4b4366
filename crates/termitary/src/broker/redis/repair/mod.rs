//! Housekeeping: takes over from dead workers, repairs what Redis lost, keeps the consumer
//! groups, and trims streams.

pub(crate) mod expired;
pub(crate) mod former;
pub(crate) mod groups;
pub(crate) mod loss;
#[cfg(test)]
mod loss_tests;
pub(crate) mod reconcile;
pub(crate) mod takeover;
pub(crate) mod trim;
pub(crate) mod unsubscribed;
pub(crate) mod upkeep;
