//! Three meanings that the ledger has from SQLite's single writer, and how PostgreSQL
//! gets them. Each one stands here and nowhere else: see decisions 0011 and 0013.
//!
//! - `seq` is the commit order: [`newest`], [`complete`].
//! - Nobody else writes in the meantime: [`alone`].
//! - A publish joins the routes that are there when it commits: [`declaring`], and the
//!   gap that `backfill` closes.

use crate::db::{Db, Tx};
use crate::engine::Engine;
use crate::error::Error;

/// A table whose `seq` readers go along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Events,
    Broadcasts,
}

/// The newest `seq` of a table up to which nothing will be added: a reader that goes on
/// after it misses nothing.
///
/// SQLite's one writer commits each `seq` before it takes the next. On PostgreSQL
/// several transactions commit in any order, so this stays below those that run.
pub(crate) async fn newest(db: &Db, table: Table) -> Result<i64, Error> {
    match db.engine() {
        Engine::Sqlite(_) => {
            let max = match table {
                Table::Events => "SELECT COALESCE(MAX(seq), 0) FROM termitary_events",
                Table::Broadcasts => "SELECT COALESCE(MAX(seq), 0) FROM termitary_broadcasts",
            };
            Ok(sqlx::query_scalar(max)
                .fetch_one(&mut *db.read().await?)
                .await?)
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres(engine) => engine.horizon(table as usize).complete(engine).await,
    }
}

/// The same as a bound for a reader of rows: nothing above it may be passed. SQLite shows
/// no row above.
pub(crate) async fn complete(db: &Db, table: Table) -> Result<i64, Error> {
    if db.path().is_some() {
        return Ok(i64::MAX);
    }
    newest(db, table).await
}

/// Begins a transaction that reads rows and then changes them, and relies on them being
/// the same. On SQLite no other writer runs meanwhile. On PostgreSQL these transactions
/// run one after the other; publishes, claims and settlements of leased rows go on.
pub(crate) async fn alone(db: &Db) -> Result<Tx, Error> {
    let tx = db.begin_own().await?;
    #[cfg(feature = "postgres")]
    let tx = locked(db, tx, "alone").await?;
    Ok(tx)
}

/// Begins a transaction that changes routes. A publish that commits before it owes
/// deliveries by the old routes. On SQLite one that commits after it owes them by the new
/// ones; on PostgreSQL it may have read the old ones, and the gap is closed afterwards.
pub(super) async fn declaring(db: &Db) -> Result<Tx, Error> {
    let tx = db.begin_at_start().await?;
    #[cfg(feature = "postgres")]
    let tx = locked(db, tx, "declare").await?;
    Ok(tx)
}

/// Waits until no other transaction of this purpose runs on the ledger.
#[cfg(feature = "postgres")]
async fn locked(db: &Db, mut tx: Tx, purpose: &str) -> Result<Tx, Error> {
    if let Engine::Postgres(engine) = db.engine() {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("termitary {purpose} {}", engine.schema()))
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx)
}
