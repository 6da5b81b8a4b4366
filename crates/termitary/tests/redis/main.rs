//! The redis broker against a real server, which each test starts for itself
//! on a loopback port and ends by its process id.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bridge;
mod dropped;
mod flow;
mod foreign;
mod loss;
mod names;
mod outages;
mod prefix;
mod streams;
mod takeover;
mod together;
mod whose;
mod world;
