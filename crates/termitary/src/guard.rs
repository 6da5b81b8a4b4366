//! The engine calls user code only through this module. A panic there becomes an error of
//! the call; it never ends a task of the engine.
//!
//! User code is everything that runs because of a user's type: `Deserialize`, extractors,
//! handlers and the drop of their futures, `Display` of their errors, and the closures of
//! schedules.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::excerpt::Excerpt;

/// A panic of user code. Displays as `panicked: …`, shortened like every error text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Panicked {}

impl Panicked {
    fn with(payload: Box<dyn Any + Send>) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = Excerpt::of(format_args!(
            "panicked: {}",
            text.unwrap_or("with no message")
        ));
        // The payload is a user's value too: one that panics when it is dropped is leaked.
        if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(worse);
        }
        Self(text)
    }
}

/// Calls user code.
///
/// `AssertUnwindSafe`: data that the engine shares with user code is valid after every
/// statement, and the user's own data is dropped.
pub(crate) fn call<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(Panicked::with)
}

/// Drops a value of a user's type.
pub(crate) fn discard<T>(value: T) -> Result<(), Panicked> {
    call(|| drop(value))
}

/// A future of user code whose polls and drop are guarded. It resolves to its output, or to
/// the panic of either.
pub(crate) struct Guarded<F>(Option<F>);

/// Guards a future that can be moved, such as a boxed or pinned one.
pub(crate) fn future<F: Future + Unpin>(future: F) -> Guarded<F> {
    Guarded(Some(future))
}

impl<F> Guarded<F> {
    /// Drops the future before it is ready.
    pub(crate) fn cancel(mut self) -> Result<(), Panicked> {
        self.0.take().map_or(Ok(()), discard)
    }
}

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Pending; // polled again after it was ready
        };
        let polled = match call(|| Pin::new(future).poll(context)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        let dropped = self.0.take().map_or(Ok(()), discard);
        Poll::Ready(match (polled, dropped) {
            (Ok(output), Ok(())) => Ok(output),
            (Err(panicked), _) => Err(panicked),
            (Ok(output), Err(panicked)) => {
                let _ = discard(output);
                Err(panicked)
            }
        })
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && let Err(panicked) = discard(future)
        {
            tracing::error!(error = %panicked, "user code panicked while it was dropped");
        }
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "panics are what these tests are about")]
mod tests {
    use std::future::{pending, ready};
    use std::panic::panic_any;

    use super::*;

    /// Panics when it is dropped.
    struct Mine;

    impl Drop for Mine {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "stepped on");
        }
    }

    fn text<T>(result: Result<T, Panicked>) -> String {
        result
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_call_returns_its_value_or_the_text_of_its_panic() {
        assert_eq!(call(|| 7), Ok(7));
        assert_eq!(text(call(|| panic!("at {}", 7))), "panicked: at 7");
        assert_eq!(text(call(|| panic!("here"))), "panicked: here");
        assert_eq!(text(call(|| panic_any(7))), "panicked: with no message");
    }

    #[test]
    fn a_panic_whose_value_panics_when_dropped_is_one_panic() {
        assert_eq!(text(call(|| panic_any(Mine))), "panicked: with no message");
        assert_eq!(text(discard(Mine)), "panicked: stepped on");
    }

    #[tokio::test]
    async fn a_future_resolves_to_its_output_or_the_panic_of_its_poll_or_drop() {
        assert_eq!(future(ready(7)).await, Ok(7));
        let polled = future(Box::pin(async { panic!("polled") })).await;
        assert_eq!(text::<()>(polled), "panicked: polled");
        let mine = Mine;
        let mut pinned = Box::pin(std::future::poll_fn(move |_| {
            let _held = &mine;
            Poll::Ready(())
        }));
        assert_eq!(text(future(&mut pinned).await), "");
        assert_eq!(text(future(pinned).await), "panicked: stepped on");
    }

    #[tokio::test]
    async fn a_cancelled_future_returns_the_panic_of_its_drop_and_never_raises_it() {
        let hang = || {
            let mine = Mine;
            Box::pin(async move {
                let _held = mine;
                pending::<()>().await;
            })
        };
        assert_eq!(text(future(hang()).cancel()), "panicked: stepped on");
        drop(future(hang()));
    }
}
