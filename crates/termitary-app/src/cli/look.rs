//! A look at a database file before anything is written into it: the address in
//! `DATABASE_URL` may be another program's.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::time::{Instant, sleep};

use super::open::Missing;
use crate::app;
use crate::config::{Mistake, escape};

/// How long a lock that forbids even reading is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
const REST: Duration = Duration::from_millis(100);
/// `SQLITE_BUSY`.
const BUSY: &str = "5";
/// Names that a message shows at most.
const SHOWN: usize = 5;

/// What stands in a file.
#[derive(Debug, Default)]
struct Found {
    tables: BTreeSet<String>,
    /// Version and checksum of each migration, where somebody's tool keeps them.
    migrations: Option<Vec<(i64, Vec<u8>)>>,
}

/// An error where the file is another program's, or where it has no ledger and the
/// command must not make one.
pub(super) async fn at(file: &Path, missing: Missing) -> anyhow::Result<()> {
    if !file.exists() {
        return if missing == Missing::Refuse {
            no_ledger(file)
        } else {
            Ok(())
        };
    }
    // Opening it says better what is wrong with it.
    let Ok(found) = read(file).await else {
        return Ok(());
    };
    if let Some(theirs) = found.not_ours(missing) {
        return Err(foreign(file, &theirs).into());
    }
    if missing == Missing::Refuse && !found.has_ledger() {
        return no_ledger(file);
    }
    Ok(())
}

fn no_ledger(file: &Path) -> anyhow::Result<()> {
    bail!(
        "there is no database at {} yet: start `termitary`, or create one with `termitary migrate`, or set DATABASE_URL to where it is",
        file.display()
    )
}

fn foreign(file: &Path, theirs: &[String]) -> Mistake {
    let mut names: Vec<String> = theirs.iter().take(SHOWN).map(|name| escape(name)).collect();
    if theirs.len() > SHOWN {
        names.push("…".to_owned());
    }
    Mistake::new(format!(
        "DATABASE_URL is `sqlite://{}`: the file holds tables of another program ({}), and nothing was written into it. Set DATABASE_URL to a file of its own, such as sqlite://termitary.db",
        file.display(),
        names.join(", ")
    ))
}

impl Found {
    fn has_ledger(&self) -> bool {
        self.tables.contains("termitary_schema")
    }

    /// Tables that show that the file is another program's; none where it is ours,
    /// or nobody's yet. A ledger of another service may be looked at.
    fn not_ours(&self, missing: Missing) -> Option<Vec<String>> {
        if missing == Missing::Refuse && self.has_ledger() {
            return None;
        }
        let tables: Vec<String> = match &self.migrations {
            Some(applied) if applied.is_empty() || app::has_made(applied) => return None,
            None if self.has_ledger() => {
                self.tables.intersection(&app::tables()).cloned().collect()
            }
            _ => self.tables.iter().cloned().collect(),
        };
        (!tables.is_empty()).then_some(tables)
    }
}

async fn read(file: &Path) -> sqlx::Result<Found> {
    let end = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let error = match read_once(file).await {
            Err(error) if is_busy(&error) && Instant::now() < end => error,
            found => return found,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(error = %error, "another process holds the database's write lock: waiting for it");
        }
        sleep(REST).await;
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == BUSY)
}

async fn read_once(file: &Path) -> sqlx::Result<Found> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        r"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'",
    )
    .fetch_all(&mut conn)
    .await?;
    let mut found = Found {
        tables: tables.into_iter().collect(),
        migrations: None,
    };
    if found.tables.contains("_sqlx_migrations") {
        let applied =
            sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version");
        found.migrations = Some(applied.fetch_all(&mut conn).await?);
    }
    conn.close().await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tables: &[&str], migrations: Option<Vec<(i64, Vec<u8>)>>) -> Found {
        Found {
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            migrations,
        }
    }

    #[test]
    fn a_file_is_ours_or_nobodys_or_is_left_alone() {
        let is_foreign = |found: Found| found.not_ours(Missing::Create).is_some();
        assert!(!is_foreign(found(&[], None)));
        assert!(!is_foreign(found(&["termitary_schema", "orders"], None)));
        assert!(is_foreign(found(&["orders"], None)));
        assert!(is_foreign(found(&["termitary_schema", "todos"], None)));
        let theirs = Some(vec![(1, vec![1, 2, 3])]);
        assert!(is_foreign(found(&["_sqlx_migrations", "users"], theirs)));
    }

    #[test]
    fn the_ledger_of_another_service_may_be_looked_at() {
        let service = found(&["termitary_schema", "users", "orders"], None);
        assert!(service.not_ours(Missing::Refuse).is_none());
        assert!(found(&["users"], None).not_ours(Missing::Refuse).is_some());
    }
}
