//! The connection to a Redis or Valkey server: its address and settings, the checks of a
//! new connection, commands and scripts, key names, and the replies.

pub(crate) mod accept;
mod address;
pub(crate) mod broadcasts;
pub(crate) mod commands;
pub(crate) mod config;
pub(crate) mod info;
pub(crate) mod keys;
pub(crate) mod link;
pub(crate) mod pipeline;
pub(crate) mod reply;
pub(crate) mod script;
pub(crate) mod sharing;
