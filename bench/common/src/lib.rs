//! What every measured program shares, so that all of them measure alike: the
//! event, how it is published in a closed and in an open loop, how a drain is
//! timed, and the one line of JSON that says the result.
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

/// What goes wrong in a measurement ends it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// See [`Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;
