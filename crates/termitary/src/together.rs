//! Gathers requests that several callers make at the same time, so that one batch serves all of
//! them and each caller gets its own result.
//!
//! [`Together::ask`] adds a request. If too few batches are running, the caller also gets a
//! [`Turn`]: the duty to take the waiting requests, carry them out, and deliver the results.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::Error;
use crate::lock::Mutex;

/// Requests `Q` that wait for a result `A`.
#[derive(Debug)]
pub(crate) struct Together<Q, A> {
    /// The most turns at a time.
    most_turns: usize,
    state: Mutex<State<Q, A>>,
}

#[derive(Debug)]
struct State<Q, A> {
    /// One caller does its request without a queue.
    alone: bool,
    /// At least one while something waits.
    turns: usize,
    waiting: Batch<Q, A>,
}

/// Receives the result of one request. The channel closes without a result if the turn was dropped,
/// for example because its runtime ended.
pub(crate) type Answer<A> = oneshot::Receiver<Result<A, Error>>;

/// Requests that are done together.
#[derive(Debug)]
pub(crate) struct Batch<Q, A> {
    pub(crate) requests: Vec<Q>,
    callers: Vec<oneshot::Sender<Result<A, Error>>>,
}

impl<Q, A> Together<Q, A> {
    /// Allows up to `most_turns` batches at the same time.
    pub(crate) fn new(most_turns: usize) -> Arc<Self> {
        let state = State {
            alone: false,
            turns: 0,
            waiting: Batch::default(),
        };
        Arc::new(Self {
            most_turns,
            state: Mutex::new(state),
        })
    }

    /// Adds a request. A caller that gets a turn must take it, itself or in a task; the request is
    /// carried out even if its caller is dropped.
    pub(crate) fn ask(self: &Arc<Self>, request: Q) -> (Answer<A>, Option<Turn<Q, A>>) {
        let (caller, answer) = oneshot::channel();
        let mut state = self.state.lock();
        state.waiting.requests.push(request);
        state.waiting.callers.push(caller);
        let turn = (state.turns < self.most_turns).then(|| {
            state.turns += 1;
            Turn {
                together: Arc::clone(self),
                over: false,
            }
        });
        (answer, turn)
    }

    /// Lets a caller do its request without a queue if nothing else is under way. While
    /// the result lives, others queue.
    pub(crate) fn alone(&self) -> Option<Alone<'_, Q, A>> {
        let mut state = self.state.lock();
        if state.alone || state.turns > 0 {
            return None;
        }
        state.alone = true;
        Some(Alone(self))
    }
}

/// See [`Together::alone`].
pub(crate) struct Alone<'a, Q, A>(&'a Together<Q, A>);

impl<Q, A> Drop for Alone<'_, Q, A> {
    fn drop(&mut self) {
        self.0.state.lock().alone = false;
    }
}

/// The duty to carry out waiting requests, batch after batch.
pub(crate) struct Turn<Q, A> {
    together: Arc<Together<Q, A>>,
    over: bool,
}

impl<Q, A> Turn<Q, A> {
    /// The next requests, up to `most`. `None` if nothing waits: the turn is over.
    pub(crate) fn next(&mut self, most: usize) -> Option<Batch<Q, A>> {
        let mut state = self.together.state.lock();
        let number = state.waiting.requests.len().min(most);
        if number == 0 {
            state.turns -= usize::from(!self.over);
            self.over = true;
            return None;
        }
        Some(Batch {
            requests: state.waiting.requests.drain(..number).collect(),
            callers: state.waiting.callers.drain(..number).collect(),
        })
    }
}

impl<Q, A> Drop for Turn<Q, A> {
    /// If a turn is dropped half-way, with its runtime, no other turn may be left: the waiting
    /// callers then get an error.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.together.state.lock();
        state.turns -= 1;
        if state.turns == 0 {
            state.waiting = Batch::default();
        }
    }
}

impl<Q, A> Batch<Q, A> {
    /// Delivers the results, in the order of the requests. A dropped caller needs no result.
    pub(crate) fn answer(self, answers: impl IntoIterator<Item = Result<A, Error>>) {
        for (caller, answer) in self.callers.into_iter().zip(answers) {
            let _ = caller.send(answer);
        }
    }

    /// Gives every caller the same error.
    pub(crate) fn fail(self, error: &Error) {
        self.answer(std::iter::repeat_with(|| Err(error.repeat())));
    }
}

impl<Q, A> Default for Batch<Q, A> {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            callers: Vec::new(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_one_moment_are_one_batch_and_each_gets_its_answer() {
        let together = Together::new(1);
        let (first, turn) = together.ask(1);
        let mut turn = turn.unwrap();
        let (second, none) = together.ask(2);
        let (third, _) = together.ask(3);
        assert!(none.is_none(), "one turn at a time");
        let batch = turn.next(2).unwrap();
        assert_eq!(batch.requests, [1, 2]);
        batch.answer([Ok("one"), Err(Error::internal("two"))]);
        assert_eq!(first.await.unwrap().unwrap(), "one");
        assert!(second.await.unwrap().is_err());
        let batch = turn.next(2).unwrap();
        batch.fail(&Error::unavailable("three"));
        assert!(third.await.unwrap().unwrap_err().is_unavailable());
        assert!(turn.next(2).is_none());
        assert!(together.ask(4).1.is_some(), "the last turn is over");
    }

    #[tokio::test]
    async fn a_turn_dropped_half_way_leaves_nobody_waiting() {
        let together: Arc<Together<i32, ()>> = Together::new(2);
        let (first, turn) = together.ask(1);
        let (second, other) = together.ask(2);
        drop(turn);
        let mut other = other.unwrap();
        let batch = other.next(1).unwrap();
        batch.answer([Ok(())]);
        assert!(first.await.unwrap().is_ok());
        drop(other);
        assert!(second.await.is_err(), "its channel is closed");
        assert!(together.ask(3).1.is_some());
    }

    #[test]
    fn a_caller_is_alone_until_another_asks() {
        let together: Arc<Together<i32, ()>> = Together::new(1);
        let alone = together.alone();
        assert!(alone.is_some() && together.alone().is_none());
        let (_, turn) = together.ask(1);
        drop(alone);
        assert!(together.alone().is_none(), "a turn is under way");
        assert!(turn.unwrap().next(9).is_some(), "and dropped after that");
        assert!(together.alone().is_some());
    }
}
