//! The Termitary application: a team to-do service whose API, workers and
//! schedules run on the `termitary` library, with no private doors.
//!
//! Each module has two doors, `router()` and `subscriptions()`; another module
//! may import only its `events`.

pub mod app;
pub mod config;
pub mod http;
pub mod mail;
