//! How a task gives way.

use std::task::Poll;

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
