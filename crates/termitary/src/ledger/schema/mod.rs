//! The ledger's tables, and how an older file becomes a newer one.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(all(test, feature = "postgres", feature = "testing"))]
mod postgres_tests;

use super::Db;
use crate::engine::{Conn, Engine};
use crate::error::{Error, Kind};

/// One step per version of a file: step n brings a file from version n to n + 1.
/// Steps that have been released are never edited.
const STEPS: &[&str] = &[
    include_str!("0001_ledger.sql"),
    include_str!("0002_suspects.sql"),
    include_str!("0003_unrouted.sql"),
    include_str!("0004_doubts.sql"),
    include_str!("0005_kept.sql"),
    include_str!("0006_worker_mode.sql"),
    include_str!("0007_scoped_ids.sql"),
    include_str!("0008_failing.sql"),
    include_str!("0009_names.sql"),
    include_str!("0010_retained.sql"),
    include_str!("0011_whose.sql"),
];

fn steps(db: &Db) -> &'static [&'static str] {
    match db.engine() {
        Engine::Sqlite(_) => STEPS,
        #[cfg(feature = "postgres")]
        Engine::Postgres(_) => postgres::STEPS,
    }
}

/// The steps that the tables of a ledger lack: see [`Db::migration`].
#[derive(Clone, Debug)]
pub struct Migration {
    from: usize,
    to: usize,
    sql: String,
}

impl Migration {
    /// The version of the tables; 0 if there are none.
    pub fn from(&self) -> usize {
        self.from
    }

    /// The version of this program.
    pub fn to(&self) -> usize {
        self.to
    }

    /// The statements, in a transaction, for a person who runs them by hand.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The steps for a SQLite file that is not there.
    pub(super) fn of_new_file() -> Self {
        Self {
            from: 0,
            to: STEPS.len(),
            sql: sqlite_script(0),
        }
    }
}

/// The steps that a database lacks.
pub(super) async fn pending(db: &Db) -> Result<Option<Migration>, Error> {
    let (from, to) = (version(db).await?, steps(db).len());
    let script = || match db.engine() {
        Engine::Sqlite(_) => sqlite_script(from),
        #[cfg(feature = "postgres")]
        Engine::Postgres(engine) => postgres::script(engine, from),
    };
    Ok((from < to).then(|| Migration {
        from,
        to,
        sql: script(),
    }))
}

fn sqlite_script(at: usize) -> String {
    let steps = STEPS[at..].join("\n");
    format!(
        "BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS termitary_schema (version INTEGER NOT NULL);

{steps}
DELETE FROM termitary_schema;
INSERT INTO termitary_schema (version) VALUES ({});
COMMIT;
",
        STEPS.len()
    )
}

/// Brings the database to this code's version; refuses one from the future.
pub(super) async fn migrate(db: &Db) -> Result<(), Error> {
    if version(db).await? == steps(db).len() {
        return Ok(());
    }
    match db.engine() {
        Engine::Sqlite(_) => migrate_sqlite(db).await,
        #[cfg(feature = "postgres")]
        Engine::Postgres(engine) => postgres::migrate(db, engine).await,
    }
}

async fn migrate_sqlite(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS termitary_schema (version INTEGER NOT NULL)")
        .execute(&mut *tx)
        .await?;
    // Again, now that nobody else can be half-way.
    let at = sqlx::query_scalar::<_, i64>("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(&mut *tx)
        .await? as usize;
    if at > STEPS.len() {
        return Err(newer(db, at, STEPS.len()));
    }
    if at == 0 {
        refuse_namesakes(&mut tx, db).await?;
    }
    for step in &STEPS[at..] {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
    }
    sqlx::query("DELETE FROM termitary_schema")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO termitary_schema (version) VALUES ($1)")
        .bind(STEPS.len() as i64)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// Refuses a file without a ledger that has tables with names of the ledger.
async fn refuse_namesakes(conn: &mut Conn, db: &Db) -> Result<(), Error> {
    let names: Option<String> = sqlx::query_scalar(
        r"SELECT group_concat(name, ', ') FROM sqlite_master
          WHERE type = 'table' AND name LIKE 'termitary\_%' ESCAPE '\' AND name <> 'termitary_schema'",
    )
    .fetch_one(conn)
    .await?;
    match names {
        None => Ok(()),
        Some(names) => Err(Error::invalid(format!(
            "{} has no ledger, but tables with names of the ledger ({names}): open another file, or rename these tables",
            db.place()
        ))),
    }
}

/// Returns whether the database has this code's version.
pub(super) async fn is_current(db: &Db) -> Result<bool, Error> {
    match version(db).await {
        Ok(at) => Ok(at == steps(db).len()),
        Err(error) if error.is_newer_schema() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn version(db: &Db) -> Result<usize, Error> {
    let at = match db.engine() {
        Engine::Sqlite(_) => version_on_sqlite(db).await?,
        #[cfg(feature = "postgres")]
        Engine::Postgres(engine) => postgres::version(db, engine).await?,
    };
    let known = steps(db).len();
    if at > known {
        return Err(newer(db, at, known));
    }
    Ok(at)
}

async fn version_on_sqlite(db: &Db) -> Result<usize, Error> {
    let known: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'termitary_schema')",
    )
    .fetch_one(&mut *db.read().await?)
    .await?;
    if !known {
        return Ok(0);
    }
    let at: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(&mut *db.read().await?)
        .await?;
    Ok(at as usize)
}

/// The identity of this ledger.
pub(super) async fn identity(db: &Db) -> Result<uuid::Uuid, Error> {
    let id = sqlx::query_scalar("SELECT id FROM termitary_ledger")
        .fetch_optional(&mut *db.read().await?)
        .await?;
    id.ok_or_else(|| Error::internal("the ledger has no identity"))
}

fn newer(db: &Db, at: usize, known: usize) -> Error {
    Error::new(
        Kind::NewerSchema,
        format!(
            "the ledger in {} has schema version {at}, this program knows up to {known}: start the newer program, or restore a backup from before it ran",
            db.place()
        ),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_text_of_a_migration_makes_the_ledger_that_opening_makes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let url = format!("sqlite://{}", file.display());
        let pending = async || {
            Db::migration(&url, crate::db::Options::default())
                .await
                .unwrap()
        };
        let migration = pending().await.unwrap();
        assert_eq!((migration.from(), migration.to()), (0, STEPS.len()));
        assert!(!file.exists(), "looking creates no file");
        let by_hand = rusqlite::Connection::open(&file).unwrap();
        by_hand.execute_batch(migration.sql()).unwrap();
        assert!(pending().await.is_none());
        assert!(Db::open(&url).await.unwrap().is_current().await.unwrap());
    }

    #[tokio::test]
    async fn a_file_with_tables_of_its_own_gets_a_ledger_and_one_with_our_names_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (table, taken) in [("orders", false), ("termitary_events", true)] {
            let file = folder.path().join(table);
            let theirs = rusqlite::Connection::open(&file).unwrap();
            let create = format!("CREATE TABLE {table} (id INTEGER)");
            theirs.execute(&create, []).unwrap();
            let opened = Db::open(&format!("sqlite://{}", file.display())).await;
            if taken {
                let refused = opened.err().unwrap();
                assert!(refused.is_invalid(), "{refused:?}");
                assert!(refused.to_string().contains(table), "{refused}");
            } else {
                assert!(opened.unwrap().is_current().await.unwrap());
            }
            let count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'";
            let tables: i64 = theirs.query_row(count, [], |row| row.get(0)).unwrap();
            assert_eq!(tables == 1, taken, "{table}");
        }
    }
}
