//! Code shared by all measured programs, so that all of them measure alike: the event, publishing
//! in a closed and in an open loop, timing a drain, and the result as one line of JSON.
//!
//! Every program is called as `program ROW --events N [--url URL] [--file PATH]
//! [--rate R] [--callers C] [--concurrency C]` and prints one JSON object.

pub mod args;
pub mod event;
pub mod load;
pub mod process;
pub mod tally;

pub use args::Args;
pub use event::TodoCreated;
pub use tally::Tally;

/// Any error ends the measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// See [`Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;
