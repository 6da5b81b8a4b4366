//! Durable background work for Rust services: typed events, handlers and schedules.
//!
//! *A transaction publishes events; every subscription gets one delivery of
//! each; a worker leases deliveries, runs handlers and settles them.*
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use termitary::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct UserRegistered { email: String }
//! impl Event for UserRegistered { const NAME: &'static str = "users.registered"; }
//!
//! async fn send_welcome(event: UserRegistered) -> HandlerResult {
//!     println!("welcome, {}", event.email);
//!     Ok(())
//! }
//!
//! fn subscriptions() -> Registry<()> {
//!     Registry::new().on(subscribe("users.send-welcome", send_welcome))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), termitary::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let file = folder.path().join("app.db");
//! let db = Db::open(&format!("sqlite://{}", file.display())).await?;
//! let broker = Broker::sql(db.clone());
//! broker.register(&subscriptions()).await?;
//!
//! let mut tx = db.begin().await?;
//! tx.publish(UserRegistered { email: "ada@example.com".into() }).await?;
//! tx.commit().await?; // now the event is real
//!
//! # let soon = async { tokio::time::sleep(std::time::Duration::from_millis(50)).await };
//! Worker::new(broker, subscriptions()).run(soon).await?;
//! # Ok(()) }
//! ```
//!
//! The guarantees: an event is delivered at least once to every subscription that was registered
//! when it was published. A handler's effects in the database through [`Ledger`](handler::Ledger)
//! happen effectively once; its other effects happen at least once, under a stable
//! [`idempotency_key`](handler::Meta::idempotency_key). There is no order. Nothing is dropped
//! silently: a delivery ends as done, or as a dead letter or parked, which are kept until an
//! operator decides.
//!
//! The modules of this crate, in reading order: [`event`] (events), [`Tx`] and [`Bus`] (publishing
//! them), [`broadcast`] (reaching every live process), [`handler`], [`subscription`] and [`retry`]
//! (handlers and their policies), [`schedule`], [`registry`] (all of it as data), [`worker`]
//! (running it), [`broker`] (the queues of deliveries), [`db`] (one SQLite file, which several
//! processes may share), [`inspect`] (the operator's interface), `testing` (the real engine on a
//! manual clock).
//!
//! The crates whose types appear in this API are re-exported: [`sqlx`], [`jiff`], [`uuid`] and
//! [`schemars`].
//!
//! Features, off by default: `redis` (deliveries travel through Redis or Valkey Streams) and
//! `testing`. The guides in `docs/guide` describe defaults and limits; `examples/` has small
//! programs: `cargo run -p termitary --example hello`, then `transaction`, `retry`, `schedule`
//! and `shutdown`.

#![cfg_attr(
    not(feature = "redis"),
    allow(
        dead_code,
        unused_imports,
        reason = "the ledger has what only the redis broker needs"
    )
)]

pub mod broker;
pub mod clock;
pub mod db;
mod delivery;
mod draft;
mod engine;
pub mod error;
pub mod event;
mod excerpt;
#[cfg_attr(feature = "failpoints", doc(hidden))]
#[cfg(feature = "failpoints")]
pub mod fault;
#[cfg(not(feature = "failpoints"))]
mod fault;
mod guard;
#[cfg(doctest)]
mod guide;
pub mod handler;
#[cfg(feature = "hot-paths")]
#[doc(hidden)]
pub mod hot_paths;
pub mod inspect;
mod ledger;
mod lock;
mod outage;
mod payload;
mod planted;
pub mod publish;
pub mod registry;
pub mod retry;
pub mod schedule;
#[cfg(all(test, feature = "testing", feature = "redis"))]
mod simulation;
pub mod subscription;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod together;
pub mod trace;
pub mod worker;

pub use broker::{Broker, Bus, broadcast};
pub use clock::Clock;
pub use db::{Conn, Db, Reader, Tx};
pub use draft::Published;
pub use error::Error;
pub use event::{Envelope, Event};
pub use handler::{HandlerError, HandlerResult};
pub use publish::Publish;
pub use registry::Registry;
pub use retry::Retry;
pub use subscription::{Subscription, subscribe};
pub use worker::Worker;

// Types of these crates appear in the public API: through `termitary::sqlx` and the others a
// program uses the matching versions, whatever else it depends on.
pub use {jiff, schemars, sqlx, uuid};

/// The items that most files with events or handlers need.
pub mod prelude {
    pub use crate::broker::{Broker, Bus};
    pub use crate::clock::{days, hours, minutes, secs};
    pub use crate::db::{Db, Tx};
    pub use crate::draft::Published;
    pub use crate::event::{Envelope, Event};
    pub use crate::handler::{
        Attempt, FromRef, HandlerError, HandlerResult, Ledger, Meta, PermanentExt, Shutdown, State,
    };
    pub use crate::publish::Publish;
    pub use crate::registry::Registry;
    pub use crate::retry::Retry;
    pub use crate::schedule::{Tick, cron, schedule};
    pub use crate::subscription::subscribe;
    pub use crate::worker::Worker;
}
