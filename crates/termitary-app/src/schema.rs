//! The application's own tables: their migrations, and the checks that a database
//! file belongs to this program.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use jiff::Timestamp;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, FromRow, PgConnection, SqliteConnection};
use termitary::db::Dialect;
use termitary::db::sql::SqlRow;
use termitary::{Conn, Db};

use crate::sql::take_turn;

/// Of the files of SQLite.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static MIGRATIONS_OF_POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

fn migrations(dialect: Dialect) -> &'static Migrator {
    match dialect {
        Dialect::Sqlite => &MIGRATIONS,
        Dialect::Postgres => &MIGRATIONS_OF_POSTGRES,
    }
}

/// Brings the application's own tables to this program's version.
///
/// # Errors
///
/// If a newer version of the program wrote the tables, or if the database fails.
pub async fn migrate(db: &Db) -> anyhow::Result<()> {
    // A user without the right to create tables can run a program of their version.
    if db.dialect() == Dialect::Postgres && is_complete(db).await? {
        return Ok(());
    }
    // One transaction: of two processes that start together, the second waits and finds
    // everything done. On SQLite it is an immediate one.
    let mut tx = db.begin_at_start().await?;
    take_turn(&mut tx, "migrations").await?;
    let migrated = match db.dialect() {
        Dialect::Sqlite => MIGRATIONS.run(&mut *tx.sqlite()?).await,
        Dialect::Postgres => migrate_postgres(&mut tx).await?,
    };
    match migrated {
        Ok(()) => Ok(tx.commit().await?),
        Err(MigrateError::VersionMissing(version)) => bail!(
            "{} was written by a newer version of this program (migration {version} is unknown here): start the newer program, or restore a backup from before it ran",
            db.place()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot migrate {}", db.place())),
    }
}

/// Returns true if the database has the application's tables, of any version.
pub(crate) async fn is_there(db: &Db) -> Result<bool, termitary::Error> {
    let mut conn = db.read().await?;
    let known = match db.path() {
        Some(_) => {
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations')"
        }
        None => "SELECT to_regclass('_sqlx_migrations') IS NOT NULL",
    };
    Ok(sqlx::query_scalar(known).fetch_one(&mut *conn).await?)
}

/// Returns true if exactly this program's migrations of PostgreSQL were applied.
async fn is_complete(db: &Db) -> anyhow::Result<bool> {
    let mut reader = db.read().await?;
    let contents = Contents::of(reader.postgres()?).await?;
    let known = MIGRATIONS_OF_POSTGRES.iter();
    let known = known.map(|one| (one.version, one.checksum.to_vec()));
    Ok(contents.migrations == Some(known.collect()))
}

/// The tables of the program go into the first schema of the search path.
async fn migrate_postgres(conn: &mut Conn) -> anyhow::Result<Result<(), MigrateError>> {
    let contents = Contents::of(conn.postgres()?).await?;
    if let Some(theirs) = contents.foreign_tables_on_postgres() {
        bail!(
            "the database contains tables of another program with names of this one ({}), so nothing was written: name a database of its own in DATABASE_URL",
            theirs.join(", ")
        );
    }
    let mut migrations = Migrator {
        migrations: MIGRATIONS_OF_POSTGRES.migrations.clone(),
        ..Migrator::DEFAULT
    };
    // The transaction has its turn.
    migrations.set_locking(false);
    Ok(migrations.run(conn.postgres()?).await)
}

/// The application's tables that move to another database, those that others refer to
/// first. Stream tickets live for seconds, and the others are of the installation.
pub(crate) const MOVED: &[&str] = &[
    "users",
    "sessions",
    "attempt_limits",
    "known_sources",
    "links",
    "answers",
    "provenance",
    "todos",
    "comments",
    "overdue_reminders",
    "activity",
    "activity_viewers",
    "mail_devices",
    "mails_counted",
];

const KEEP: &str =
    "INSERT INTO installation (id, secret) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";

/// Keeps the secret of an installation that moves here.
pub(crate) async fn keep_secret(db: &Db, text: &str) -> Result<(), termitary::Error> {
    let mut tx = db.begin().await?;
    sqlx::query(KEEP).bind(text).execute(&mut *tx).await?;
    tx.commit().await
}

/// The secret of the installation, which is created if there is none. Processes that start
/// together get the same.
pub(crate) async fn secret(db: &Db, new: &str) -> Result<String, termitary::Error> {
    let mut tx = db.begin().await?;
    let created = sqlx::query(KEEP).bind(new).execute(&mut *tx).await?;
    let secret = sqlx::query_scalar("SELECT secret FROM installation WHERE id = 1")
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    if created.rows_affected() > 0 {
        tracing::warn!(
            "TERMITARY_SECRET is not set: a secret was generated and is kept in the database; set one to keep it apart from copies of the database"
        );
    }
    Ok(secret)
}

/// Returns true if the tables are at this program's version.
pub(crate) async fn is_migrated(db: &Db) -> Result<bool, termitary::Error> {
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut *db.read().await?)
            .await?;
    let known = migrations(db.dialect());
    Ok(applied == known.iter().map(|migration| migration.version).max())
}

/// Commits one row, to prove that the database accepts writes.
pub(crate) async fn probe_write(db: &Db) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query(
        "INSERT INTO write_probe (id, at_us) VALUES (1, $1)
         ON CONFLICT (id) DO UPDATE SET at_us = excluded.at_us",
    )
    .bind(db.clock().now().as_microsecond())
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

const APPLIED: &str = "SELECT version, checksum FROM _sqlx_migrations ORDER BY version";

/// Returns true if a PostgreSQL database has the tables of a ledger. Changes nothing.
pub(crate) async fn has_ledger_on_server(url: &str) -> sqlx::Result<bool> {
    let mut conn = PgConnection::connect(url).await?;
    let found = sqlx::query_scalar("SELECT to_regclass('termitary.termitary_schema') IS NOT NULL")
        .fetch_one(&mut conn)
        .await?;
    conn.close().await?;
    Ok(found)
}

/// The contents of a database file that may belong to another program.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    tables: BTreeSet<String>,
    /// Version and checksum of each migration, if the file has a migrations table.
    migrations: Option<Vec<(i64, Vec<u8>)>>,
}

impl Contents {
    /// Reads the file without changing it.
    pub(crate) async fn read(file: &Path) -> sqlx::Result<Self> {
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let mut conn = SqliteConnection::connect_with(&options).await?;
        let tables: Vec<String> = sqlx::query_scalar(
            r"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'",
        )
        .fetch_all(&mut conn)
        .await?;
        let mut contents = Self {
            tables: tables.into_iter().collect(),
            migrations: None,
        };
        if contents.tables.contains("_sqlx_migrations") {
            contents.migrations = Some(sqlx::query_as(APPLIED).fetch_all(&mut conn).await?);
        }
        conn.close().await?;
        Ok(contents)
    }

    /// Reads the schema of a PostgreSQL database that new tables go into.
    async fn of(conn: &mut PgConnection) -> sqlx::Result<Self> {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()",
        )
        .fetch_all(&mut *conn)
        .await?;
        let mut contents = Self {
            tables: tables.into_iter().collect(),
            migrations: None,
        };
        if contents.tables.contains("_sqlx_migrations") {
            contents.migrations = Some(sqlx::query_as(APPLIED).fetch_all(conn).await?);
        }
        Ok(contents)
    }

    /// The tables of another program that are in the way of this one's. Others may share
    /// the database.
    fn foreign_tables_on_postgres(&self) -> Option<Vec<String>> {
        let ours = &MIGRATIONS_OF_POSTGRES;
        match &self.migrations {
            Some(applied) if applied.is_empty() || is_ours(ours, applied) => return None,
            Some(_) => return Some(vec!["_sqlx_migrations".to_owned()]),
            None => {}
        }
        let ours = own_tables(ours);
        let tables: Vec<String> = self.tables.intersection(&ours).cloned().collect();
        (!tables.is_empty()).then_some(tables)
    }

    /// Returns true if the file has the tables of a ledger.
    pub(crate) fn has_ledger(&self) -> bool {
        self.tables.contains("termitary_schema")
    }

    /// The tables that show that the file belongs to another program; `None` if it
    /// belongs to this one or is empty. With `any_ledger` a ledger of another service
    /// is accepted.
    pub(crate) fn foreign_tables(&self, any_ledger: bool) -> Option<Vec<String>> {
        if any_ledger && self.has_ledger() {
            return None;
        }
        let tables: Vec<String> = match &self.migrations {
            Some(applied) if applied.is_empty() || is_ours(&MIGRATIONS, applied) => return None,
            None if self.has_ledger() => self
                .tables
                .intersection(&own_tables(&MIGRATIONS))
                .cloned()
                .collect(),
            _ => self.tables.iter().cloned().collect(),
        };
        (!tables.is_empty()).then_some(tables)
    }
}

/// Returns true if these migrations, by version and checksum, are this program's.
fn is_ours(migrations: &Migrator, applied: &[(i64, Vec<u8>)]) -> bool {
    migrations.iter().next().is_some_and(|first| {
        let is_first = |(version, checksum): &(i64, Vec<u8>)| {
            *version == first.version && checksum[..] == first.checksum[..]
        };
        applied.iter().any(is_first)
    })
}

/// The names of the application's own tables.
fn own_tables(migrations: &Migrator) -> BTreeSet<String> {
    let texts = migrations.iter().map(|migration| migration.sql.as_str());
    let after = texts.flat_map(|text| text.split("CREATE TABLE ").skip(1));
    after
        .filter_map(|rest| rest.split([' ', '(', '\n']).next())
        .map(str::to_owned)
        .collect()
}

/// The rows of a list that can be read. A row that no program of ours wrote, after a repair by
/// hand or a fault of the disk, is left out: it must keep nobody from the others.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    pub(crate) readable: Vec<T>,
    /// The number of rows that the statement returned.
    pub(crate) read: usize,
}

impl<T> Rows<T> {
    pub(crate) fn of(table: &'static str, rows: &[SqlRow]) -> Self
    where
        T: for<'r> FromRow<'r, SqlRow>,
    {
        let readable = rows.iter().map(T::from_row);
        Self {
            readable: readable
                .filter_map(|row| readable_row(table, row))
                .collect(),
            read: rows.len(),
        }
    }
}

/// The row, or one line in the log.
pub(crate) fn readable_row<T>(table: &'static str, row: sqlx::Result<T>) -> Option<T> {
    row.inspect_err(|error| tracing::warn!(%error, table, "left out a row that cannot be read"))
        .ok()
}

/// The time of a stored number of microseconds; the epoch if it is out of range.
pub(crate) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(tables: &[&str], migrations: Option<Vec<(i64, Vec<u8>)>>) -> Contents {
        Contents {
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            migrations,
        }
    }

    #[test]
    fn a_file_is_ours_or_nobodys_or_is_left_alone() {
        let is_foreign = |contents: Contents| contents.foreign_tables(false).is_some();
        assert!(!is_foreign(contents(&[], None)));
        assert!(!is_foreign(contents(&["termitary_schema", "orders"], None)));
        assert!(is_foreign(contents(&["orders"], None)));
        assert!(is_foreign(contents(&["termitary_schema", "todos"], None)));
        let theirs = Some(vec![(1, vec![1, 2, 3])]);
        assert!(is_foreign(contents(&["_sqlx_migrations", "users"], theirs)));
    }

    #[test]
    fn the_ledger_of_another_service_may_be_looked_at() {
        let service = contents(&["termitary_schema", "users", "orders"], None);
        assert!(service.foreign_tables(true).is_none());
        assert!(contents(&["users"], None).foreign_tables(true).is_some());
    }
}
