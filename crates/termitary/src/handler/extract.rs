//! Arguments that a handler can take besides its event.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Context, HandlerError};

/// Something a handler can take as an argument after the event.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take a `{Self}` beside its event",
    label = "an argument after the event is no extractor",
    note = "extractors are State<T> (the state, or a part of it that has `impl FromRef<…> for T`), Ledger, Meta, Attempt, Shutdown, and your own types that implement FromDelivery",
    note = "the event is the first argument"
)]
pub trait FromDelivery<S>: Sized {
    /// Takes the value out of the delivery's context. An error counts as the
    /// handler's own.
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError>;
}

/// A part of the state that can be taken out of the whole.
pub trait FromRef<S> {
    /// Clones the part out of `state`.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> Self {
        state.clone()
    }
}

/// The worker's state, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct State<T>(pub T);

impl<T: FromRef<S>, S> FromDelivery<S> for State<T> {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(Self(T::from_ref(context.state)))
    }
}

/// Facts about the delivery.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Meta {
    /// The event's id: the same in every attempt and replay.
    pub event_id: Uuid,
    /// The event's wire name.
    pub event_name: String,
    /// When it was published.
    pub published_at: Timestamp,
    /// The event's key, where its publisher gave one.
    pub key: Option<String>,
    /// The subscription that this delivery is for.
    pub subscription: String,
    /// The attempt that runs, from 1.
    pub attempt: u32,
    /// Rises with every lease of this delivery: a receiver that remembers the
    /// highest can refuse a worker that woke up late.
    pub fence: i64,
    /// W3C trace context of this attempt.
    pub traceparent: String,
}

impl Meta {
    /// A key for receivers that deduplicate, stable over attempts and replays.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.event_id, self.subscription)
    }
}

impl<S> FromDelivery<S> for Meta {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(Meta::clone(context.meta))
    }
}

impl<S> FromDelivery<S> for Arc<Meta> {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(Arc::clone(context.meta))
    }
}

/// The number of the running attempt, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl<S> FromDelivery<S> for Attempt {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(Self(context.meta.attempt))
    }
}

/// Tells a long handler that the worker is stopping.
#[derive(Clone, Debug)]
pub struct Shutdown(pub(crate) CancellationToken);

impl Shutdown {
    /// Returns whether the worker is stopping.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the worker begins to stop.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

impl<S> FromDelivery<S> for Shutdown {
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(context.shutdown())
    }
}
