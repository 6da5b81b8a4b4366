//! Every error reply and every silence of Redis and SQLite: every loop survives it, none spins,
//! none is silent, and nothing is lost or doubled.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deploy;
mod doubt;
mod operator;
mod orphans;
mod outage;
mod proxy;
mod real;
mod resp;
mod sqlite;
mod table;
mod world;
