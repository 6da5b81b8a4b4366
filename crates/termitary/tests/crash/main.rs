//! Worker processes that die while they run a handler: who is to blame?
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;
mod clocks;
mod held;
mod locked;
#[path = "../support/processes.rs"]
mod processes;
mod supervised;
mod suspects;
mod suspended;
