//! The `termitary` command from outside: its output, its exit codes, and several processes
//! together.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod bench;
mod canary;
mod check;
mod dead_letters;
mod doctor;
mod foreign;
mod help;
mod http;
mod journey;
mod limits;
mod locked;
mod memory;
mod migrations;
mod moving;
mod own_program;
mod postgres_mode;
mod readme;
mod redis_kinds;
mod redis_mode;
mod redis_server;
mod sandbox;
mod security_log;
mod settings;
mod smtp;
mod sqlite_mode;
mod stopping;
mod two_workers;
mod unread;
mod users;
