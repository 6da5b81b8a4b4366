//! Tasks that yield, and that continue after a panic.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use crate::guard;

/// Pause of a loop before it restarts after a panic.
const REST: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1_000 });

/// Runs a loop of the engine to its end; begins it again when it panicked.
/// Nothing in it should panic: if it does, one fault must not end a
/// subscription or the housekeeping for good.
pub(crate) async fn lasting<F>(what: &'static str, mut begin: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    while let Err(panicked) = guard::future(Box::pin(begin())).await {
        tracing::error!(task = what, error = %panicked, "a task of the worker panicked: it begins again");
        tokio::time::sleep(REST).await;
    }
}

/// Ends this task's turn; the next comes after those that are ready now. Unlike
/// tokio's `yield_now`, which leaves the task with its thread: a handler that blocks
/// that one would keep it from everybody.
pub(crate) async fn let_others_go_first() {
    let mut gone = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_begins_again_until_it_ends() {
        let mut begun = 0;
        lasting("a test", || {
            begun += 1;
            let times = begun;
            async move { assert!(times > 2, "not yet") }
        })
        .await;
        assert_eq!(begun, 3);
    }
}
