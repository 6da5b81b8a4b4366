//! The application from HTTP to handler: the real router, the real engine, a
//! clock that stands still.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

mod accounts;
mod activity;
mod addresses;
mod bad_input;
mod contract;
mod due_dates;
mod events;
mod idempotency;
mod mail;
mod matrix;
mod operations;
mod passwords;
mod todos;
