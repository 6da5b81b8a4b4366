//! Moves a stopped ledger, and tables of the program beside it, from SQLite to an empty
//! PostgreSQL database. Pages of rows are committed one by one in the order of the
//! primary key, so that an interrupted move goes on where it stopped.

mod copy;
mod table;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use self::table::Table;
use super::workers;
use crate::db::Db;
use crate::engine::Engine;
use crate::error::Error;
use crate::fault;

/// The tables of the ledger that are moved, those that others refer to first. Workers and
/// broadcasts are of a moment, and the identity of the ledger comes last.
const LEDGER: [&str; 9] = [
    "termitary_subscriptions",
    "termitary_routes",
    "termitary_former",
    "termitary_dropped",
    "termitary_schedules",
    "termitary_ticks",
    "termitary_audit",
    "termitary_events",
    "termitary_deliveries",
];

/// The progress of [`move_to`] in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveProgress {
    /// The table.
    pub table: String,
    /// True once all rows are there and are compared with those of the source.
    pub compares: bool,
    /// The rows that are copied, or compared.
    pub rows: u64,
    /// The rows of the source.
    pub total: u64,
}

/// Copies the ledger of `source`, a SQLite file that no process uses, into `target`, an
/// empty PostgreSQL database, with all ids and numbers; then the tables `beside` it, which
/// must be there on both sides, those that others refer to first. Compares every row, and
/// returns the number of rows of each table. An interrupted move goes on where it stopped; a
/// finished one is only compared again. The source is not changed.
///
/// # Errors
///
/// `is_invalid()` if the databases are of other kinds or versions, a live worker uses one
/// of them, the source changes meanwhile, or the target is not empty and no interrupted
/// move of this source.
pub async fn move_to(
    source: &Db,
    target: &Db,
    beside: &[&str],
    mut progress: impl FnMut(&MoveProgress),
) -> Result<Vec<(String, u64)>, Error> {
    usable(source, target).await?;
    let mut look = source.read().await?;
    let version = source.version(&mut look).await?;
    let mut tables = Vec::new();
    for name in LEDGER.iter().chain(beside) {
        tables.push(Table::find(source, target, name).await?);
    }
    let stage = begin(source, target, &tables).await?;
    if stage != Stage::Finished {
        for table in &tables {
            copy::copy(source, target, table, &mut progress).await?;
        }
    }
    let mut moved = Vec::new();
    for table in &tables {
        let rows = copy::compare(source, target, table, &mut progress).await?;
        moved.push((table.name.clone(), rows));
    }
    if source.version(&mut look).await? != version {
        return Err(Error::invalid(format!(
            "{} changed while it was copied: stop every process that uses it, empty the target, and move again",
            source.place()
        )));
    }
    drop(look);
    no_worker(source).await?;
    if stage != Stage::Finished {
        finish(source, target, &tables).await?;
    }
    Ok(moved)
}

async fn usable(source: &Db, target: &Db) -> Result<(), Error> {
    if !matches!(source.engine(), Engine::Sqlite(_)) || matches!(target.engine(), Engine::Sqlite(_))
    {
        return Err(Error::invalid("a move goes from SQLite to PostgreSQL"));
    }
    for db in [source, target] {
        if !db.is_current().await? {
            return Err(Error::invalid(format!(
                "the ledger in {} is of another version than this program: run `termitary migrate` first",
                db.place()
            )));
        }
        no_worker(db).await?;
    }
    Ok(())
}

async fn no_worker(db: &Db) -> Result<(), Error> {
    match workers::live(db).await?.first() {
        None => Ok(()),
        Some(worker) => Err(Error::invalid(format!(
            "worker {worker} uses {}: stop every process that does (one that was killed counts as live for 20 seconds)",
            db.place()
        ))),
    }
}

/// The state of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begun,
    Finished,
}

/// Marks an empty target as the one of a move of this ledger. Returns the state of one that
/// is marked already.
async fn begin(source: &Db, target: &Db, tables: &[Table]) -> Result<Stage, Error> {
    let mut tx = target.begin_own().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('termitary move', 0))")
        .execute(&mut *tx)
        .await?;
    let ledger: Uuid = sqlx::query_scalar("SELECT id FROM termitary_ledger")
        .fetch_one(&mut *tx)
        .await?;
    let marked: bool = sqlx::query_scalar("SELECT to_regclass('termitary_moving') IS NOT NULL")
        .fetch_one(&mut *tx)
        .await?;
    if marked {
        let of: Uuid = sqlx::query_scalar("SELECT ledger FROM termitary_moving")
            .fetch_one(&mut *tx)
            .await?;
        if of == source.ledger() {
            return Ok(Stage::Begun);
        }
        return Err(Error::invalid(format!(
            "{} has the interrupted move of another ledger: create an empty database",
            target.place()
        )));
    }
    if ledger == source.ledger() {
        return Ok(Stage::Finished);
    }
    for table in tables {
        let filled = format!("SELECT EXISTS (SELECT 1 FROM {})", table.quoted());
        let filled: bool = sqlx::query_scalar(AssertSqlSafe(filled))
            .fetch_one(&mut *tx)
            .await?;
        if filled {
            return Err(Error::invalid(format!(
                "{} is not empty: table {} has rows. Create an empty database (createdb), and name that",
                target.place(),
                table.name
            )));
        }
    }
    let schema = table::schema(&mut tx, "termitary_ledger").await?;
    let mark = format!("CREATE TABLE {schema}.termitary_moving (ledger uuid NOT NULL)");
    sqlx::query(AssertSqlSafe(mark)).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO termitary_moving (ledger) VALUES ($1)")
        .bind(source.ledger())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Stage::Begun)
}

/// Lets numbers go on after those of the source, and makes the target that ledger.
async fn finish(source: &Db, target: &Db, tables: &[Table]) -> Result<(), Error> {
    let mut tx = target.begin_own().await?;
    for table in tables {
        table.go_on(source, &mut tx).await?;
    }
    sqlx::query("UPDATE termitary_ledger SET id = $1")
        .bind(source.ledger())
        .execute(&mut *tx)
        .await?;
    sqlx::query("DROP TABLE termitary_moving")
        .execute(&mut *tx)
        .await?;
    fault::point!("move.before_finish");
    tx.commit().await
}
