//! The life of events through the real engine on SQLite, on a manual clock.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod delivery;
mod ledger;
mod schedules;
mod shutdown;

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use termitary::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ping {
    pub(crate) n: u32,
}

impl Event for Ping {
    const NAME: &'static str = "ping.sent";
}

/// What handlers saw.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn add(&self, what: impl std::fmt::Display) {
        self.0.lock().unwrap().push(what.to_string());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
