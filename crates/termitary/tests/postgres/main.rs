//! Faults of a PostgreSQL server: work survives each of them without a restart, nothing is lost or
//! doubled, and errors name their cause.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod begins;
mod crash;
mod doubt;
mod limits;
mod proxy;
mod refused;
mod retried;
mod world;
