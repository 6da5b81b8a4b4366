//! The part of a sequence whose numbers are decided.

use std::collections::VecDeque;

use sqlx::AssertSqlSafe;

use super::Engine;
use crate::engine::Conn;
use crate::error::Error;
use crate::lock::Mutex;

/// The numbers of a sequence up to which every transaction that took one has ended. A
/// transaction has its id before it takes a number. So a look takes an id of its own
/// after it has read the last number: once every transaction with a smaller id has ended,
/// all numbers up to that one are decided. (A snapshot does not tell the next id: its
/// `xmax` may be below the id of a transaction that runs.)
pub(crate) struct Horizon {
    /// Returns the last number that was given out.
    last: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    complete: i64,
    /// A last number, and the id that every transaction which may have taken a number up
    /// to it is below.
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
        let oldest = if self.is_new(last) {
            let (own, oldest) = look(&mut conn).await?;
            self.state.lock().waiting.push_back((last, own));
            oldest
        } else if let Some(complete) = self.settled() {
            return Ok(complete);
        } else {
            oldest(&mut conn).await?
        };
        Ok(self.seen(oldest))
    }

    /// The number up to which all is decided, if no look waits for a transaction.
    fn settled(&self) -> Option<i64> {
        let state = self.state.lock();
        state.waiting.is_empty().then_some(state.complete)
    }

    /// Returns whether no look has seen this number.
    fn is_new(&self, last: i64) -> bool {
        let state = self.state.lock();
        let seen = state.waiting.back().map_or(state.complete, |look| look.0);
        last > seen && state.waiting.len() < LOOKS
    }

    /// Takes in the oldest transaction that runs.
    fn seen(&self, oldest: i64) -> i64 {
        let mut state = self.state.lock();
        while let Some(&(last, below)) = state.waiting.front()
            && below <= oldest
        {
            state.complete = state.complete.max(last);
            state.waiting.pop_front();
        }
        state.complete
    }
}

/// An id of our own, and the oldest transaction that ran when the statement began.
async fn look(conn: &mut Conn) -> Result<(i64, i64), Error> {
    Ok(sqlx::query_as(
        "SELECT pg_current_xact_id()::text::bigint, pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
    )
    .fetch_one(conn)
    .await?)
}

/// The oldest transaction that runs.
async fn oldest(conn: &mut Conn) -> Result<i64, Error> {
    Ok(
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            .fetch_one(conn)
            .await?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_decided_once_every_transaction_with_a_smaller_id_has_ended() {
        let horizon = Horizon::of("numbers");
        let look = |last, own, oldest| {
            assert!(horizon.is_new(last), "{last}");
            horizon.state.lock().waiting.push_back((last, own));
            horizon.seen(oldest)
        };
        assert_eq!(look(5, 10, 10), 5, "nobody runs");
        assert_eq!(look(8, 14, 11), 5, "transaction 11 runs");
        assert!(!horizon.is_new(8));
        assert_eq!(look(9, 16, 12), 5, "transaction 12 runs");
        assert_eq!(horizon.seen(14), 8, "those before the first look ended");
        assert_eq!(horizon.seen(16), 9);
    }
}
