//! The part of a sequence whose numbers are decided.

use std::collections::VecDeque;

use sqlx::AssertSqlSafe;

use super::Engine;
use crate::error::Error;
use crate::lock::Mutex;

/// The numbers of a sequence up to which every transaction that took one has ended. A
/// transaction has its id before it takes a number: so once every transaction that was
/// running after the number `last` was given out has ended, all up to `last` are decided.
pub(crate) struct Horizon {
    /// Returns the last number that was given out.
    last: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    complete: i64,
    /// A last number, and the id that every transaction which may still take it is below.
    waiting: VecDeque<(i64, i64)>,
}

/// The most looks that are remembered: the oldest one is decided first.
const LOOKS: usize = 64;

impl Horizon {
    pub(crate) fn of(sequence: &str) -> Self {
        Self {
            last: format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"),
            state: Mutex::default(),
        }
    }

    /// The number up to which the sequence is decided.
    pub(crate) async fn complete(&self, engine: &Engine) -> Result<i64, Error> {
        let mut conn = engine.read().await?;
        let last: i64 = sqlx::query_scalar(AssertSqlSafe(self.last.clone()))
            .fetch_one(&mut conn)
            .await?;
        // After the number was read.
        let (oldest, next): (i64, i64) = sqlx::query_as(
            "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s",
        )
        .fetch_one(&mut conn)
        .await?;
        Ok(self.seen(last, oldest, next))
    }

    /// Takes in a look: the last number, the oldest transaction that runs, and the id
    /// that the next one will get.
    fn seen(&self, last: i64, oldest: i64, next: i64) -> i64 {
        let mut state = self.state.lock();
        if state.waiting.len() < LOOKS {
            state.waiting.push_back((last, next));
        }
        while let Some(&(last, below)) = state.waiting.front()
            && below <= oldest
        {
            state.complete = state.complete.max(last);
            state.waiting.pop_front();
        }
        state.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_decided_once_every_transaction_that_ran_then_has_ended() {
        let horizon = Horizon::of("numbers");
        assert_eq!(horizon.seen(5, 10, 10), 5, "nobody runs");
        assert_eq!(horizon.seen(8, 10, 14), 5, "transaction 10 runs");
        assert_eq!(horizon.seen(9, 12, 15), 5, "transaction 12 runs");
        assert_eq!(horizon.seen(9, 14, 16), 8, "those of the first look ended");
        assert_eq!(horizon.seen(9, 16, 16), 9);
    }
}
