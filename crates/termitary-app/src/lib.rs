//! The Termitary application: a team to-do service whose API, workers and
//! schedules run on the `termitary` library, with no private doors.
//!
//! Each module has two doors, `router()` and `subscriptions()`, and a third,
//! `pages()`, where links in mails lead to it; another module may import only its
//! `events`, and from `auth` what proves who is calling.

mod accounts;
pub mod activity;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
mod fold;
pub mod http;
pub mod logging;
pub mod mail;
mod provenance;
mod secret;
mod security;
pub mod todos;
pub mod users;

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
