//! Tasks of the engine: restart after a panic, and yielding to others.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use crate::guard;

/// The pause before a loop that panicked begins again.
const REST: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1_000 });

/// Runs a loop of the engine to its end, and begins it again if it panics. No loop should
/// panic; if one does, the fault must not end a subscription or the housekeeping for good.
pub(crate) async fn lasting<F>(what: &'static str, mut begin: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    while let Err(panicked) = guard::future(Box::pin(begin())).await {
        tracing::error!(task = what, error = %panicked, "a task of the worker panicked and begins again");
        tokio::time::sleep(REST).await;
    }
}

/// Lets the tasks that are ready now run first. Tokio's `yield_now` would leave this task
/// with its thread, where a handler that blocks the thread would block the task too.
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
