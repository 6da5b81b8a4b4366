//! Numbers that readers follow in order.

use super::Db;
use crate::engine::Engine;
#[cfg(feature = "postgres")]
use crate::engine::postgres::Horizon;
#[cfg(feature = "postgres")]
use crate::engine::quoted;
use crate::error::Error;

/// A column of ascending numbers that readers follow in order, such as the key of a feed:
/// see [`Db::sequence`].
pub struct Sequence {
    db: Db,
    #[cfg(feature = "postgres")]
    horizon: Horizon,
}

impl Db {
    /// The sequence that PostgreSQL names `sequence`, such as `feed_seq_seq` for the column
    /// `seq` of the table `feed`. Keep the returned value: it remembers earlier looks.
    ///
    /// A transaction must have its id before it takes a number: its statement selects
    /// `pg_current_xact_id()` first.
    pub fn sequence(&self, sequence: &str) -> Sequence {
        #[cfg(not(feature = "postgres"))]
        let _ = sequence;
        Sequence {
            db: self.clone(),
            #[cfg(feature = "postgres")]
            horizon: Horizon::of(&quoted(sequence)),
        }
    }
}

impl Sequence {
    /// The number up to which every row is visible or never will be. A reader that stops
    /// there misses no row.
    ///
    /// SQLite's one writer commits each number before it takes the next, so the result is
    /// `i64::MAX`. On PostgreSQL transactions commit in any order, and the result stays
    /// below the numbers of those that run.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the database cannot be read.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unused_async, reason = "PostgreSQL asks its server")
    )]
    pub async fn complete(&self) -> Result<i64, Error> {
        match self.db.engine() {
            Engine::Sqlite(_) => Ok(i64::MAX),
            #[cfg(feature = "postgres")]
            Engine::Postgres(engine) => self.horizon.complete(engine).await,
        }
    }
}
