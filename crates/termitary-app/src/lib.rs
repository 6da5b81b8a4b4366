//! The Termitary application: a team to-do service whose API, workers and
//! schedules use only the public API of the `termitary` library.
//!
//! The layers, lower ones first: events; settings, configuration and small tools; the
//! mailer and provenance; accounts; the state ([`app::App`]); HTTP; the features (auth,
//! users, todos, activity, mail); the wiring; the command line. A feature imports of another
//! feature only its `events` and its `doors`, the functions that it offers.

mod accounts;
pub mod activity;
pub mod app;
pub mod auth;
mod casefold;
pub mod cli;
pub mod config;
mod credit;
mod http;
pub mod logging;
pub mod mail;
pub mod mailer;
mod network;
mod provenance;
mod quota;
mod random;
mod rate;
pub mod schema;
mod secret;
mod security;
pub mod settings;
mod sql;
pub mod todos;
pub mod users;
pub mod wiring;

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
