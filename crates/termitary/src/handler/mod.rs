//! Handlers: plain `async fn`s that take the event first, then extractors.

mod error;
mod extract;
mod ledger;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::event::{Envelope, Event};

pub(crate) use error::Verdict;
pub use error::{HandlerError, HandlerResult, PermanentExt};
pub use extract::{Attempt, FromDelivery, FromRef, Meta, Shutdown, State};
pub(crate) use ledger::{End, LedgerScope};
pub use ledger::{Ledger, LedgerTx};

/// The context of an attempt besides the event; extractors read from it.
///
/// An extractor of your own:
///
/// ```
/// use termitary::handler::{Context, FromDelivery, HandlerError};
///
/// struct Tenant(String);
///
/// impl<S> FromDelivery<S> for Tenant {
///     fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
///         let key = context.meta().key.as_deref();
///         let tenant = key.ok_or_else(|| HandlerError::permanent("no key names the tenant"))?;
///         Ok(Self(tenant.to_owned()))
///     }
/// }
/// ```
pub struct Context<'a, S> {
    pub(crate) state: &'a S,
    pub(crate) meta: &'a Arc<Meta>,
    pub(crate) ledger: &'a Arc<LedgerScope>,
    pub(crate) shutdown: &'a tokio_util::sync::CancellationToken,
}

impl<S> Context<'_, S> {
    /// The worker's state.
    pub fn state(&self) -> &S {
        self.state
    }

    /// The event's id, name and key, the attempt, the fence.
    pub fn meta(&self) -> &Meta {
        self.meta
    }

    /// Transactions that also finish the delivery.
    pub fn ledger(&self) -> Ledger {
        Ledger::over(Arc::clone(self.ledger))
    }

    /// A signal for the shutdown of the worker.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(self.shutdown.clone())
    }
}

/// An `async fn(event, extractors…) -> HandlerResult`.
///
/// Implemented for functions and closures of one to seven arguments; users do not implement it. The
/// requirements on the types are checked where a handler is bound to its event
/// ([`subscribe`](crate::subscribe)), so that the compiler can name the wrong one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "expected `async fn(event, extractors…) -> HandlerResult`",
    note = "a handler takes the event by value, then up to six extractors by value, and can be cloned and sent between threads"
)]
pub trait Handler<Args>: Clone + Send + Sync + 'static {
    /// The first argument: the [`Event`] that it handles.
    type Event;
    /// The other arguments, as a tuple.
    type Extractors;
    /// The returned future of a [`HandlerResult`].
    type Future;

    /// Runs once.
    fn call(self, event: Self::Event, extractors: Self::Extractors) -> Self::Future;
}

macro_rules! impl_handler {
    ($($extractor:ident),*) => {
        #[expect(
            clippy::allow_attributes,
            reason = "with no extractor there is nothing to allow, and an expectation would fail"
        )]
        #[allow(non_snake_case, reason = "the type parameters name the variables")]
        #[diagnostic::do_not_recommend]
        impl<F, Fut, E, $($extractor,)*> Handler<(E, $($extractor,)*)> for F
        where
            F: Fn(E, $($extractor,)*) -> Fut + Clone + Send + Sync + 'static,
        {
            type Event = E;
            type Extractors = ($($extractor,)*);
            type Future = Fut;

            fn call(self, event: E, ($($extractor,)*): Self::Extractors) -> Fut {
                self(event, $($extractor,)*)
            }
        }

        impl<S, $($extractor: FromDelivery<S>,)*> FromDelivery<S> for ($($extractor,)*) {
            fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
                let _ = context;
                Ok(($($extractor::from_delivery(context)?,)*))
            }
        }
    };
}

impl_handler!();
impl_handler!(A1);
impl_handler!(A1, A2);
impl_handler!(A1, A2, A3);
impl_handler!(A1, A2, A3, A4);
impl_handler!(A1, A2, A3, A4, A5);
impl_handler!(A1, A2, A3, A4, A5, A6);

/// A handler's future for one delivery.
pub(crate) type Run<'a> = Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>>;

/// A payload did not decode into the handler's event.
pub(crate) struct Undecodable(pub(crate) String);

/// A type-erased handler, as a subscription stores it.
pub(crate) trait Erased<S>: Send + Sync {
    /// Decodes the payload and drops the event.
    fn try_decode(&self, envelope: &Envelope) -> Result<(), Undecodable>;

    /// Decodes the payload and returns the future that handles it.
    fn start<'a>(
        &self,
        envelope: &Envelope,
        context: &'a Context<'a, S>,
    ) -> Result<Run<'a>, Undecodable>;
}

pub(crate) struct Typed<H, Args> {
    pub(crate) handler: H,
    pub(crate) args: std::marker::PhantomData<fn() -> Args>,
}

impl<H, Args, S> Erased<S> for Typed<H, Args>
where
    H: Handler<Args>,
    H::Event: Event,
    H::Extractors: FromDelivery<S>,
    H::Future: Future<Output = HandlerResult> + Send,
    Args: 'static,
    S: Send + Sync,
{
    fn try_decode(&self, envelope: &Envelope) -> Result<(), Undecodable> {
        decode::<H::Event>(envelope).map(drop)
    }

    fn start<'a>(
        &self,
        envelope: &Envelope,
        context: &'a Context<'a, S>,
    ) -> Result<Run<'a>, Undecodable> {
        let event = decode::<H::Event>(envelope)?;
        let handler = self.handler.clone();
        Ok(Box::pin(async move {
            let extractors = H::Extractors::from_delivery(context)?;
            handler.call(event, extractors).await
        }))
    }
}

fn decode<E: Event>(envelope: &Envelope) -> Result<E, Undecodable> {
    serde_json::from_str(envelope.data.get()).map_err(|error| Undecodable(decode_problem(&error)))
}

/// The position and cause of a decoding error, without any part of the payload: serde's own message
/// may quote it, and payloads are never logged.
fn decode_problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a field is missing or of another type",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Eof => "JSON cut short",
        serde_json::error::Category::Io => "unreadable",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}
