//! The application from HTTP to handler: the real router, the real engine, a
//! clock that stands still.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

mod account_safety;
mod accounts;
mod activity;
mod addresses;
mod bad_input;
mod contract;
mod cors;
mod due_dates;
mod events;
mod examples;
mod hostile_rows;
mod idempotency;
mod mail;
mod mail_limits;
mod matrix;
mod operations;
mod pages;
mod passwords;
mod people;
mod search;
mod smtp_refusals;
mod todos;
