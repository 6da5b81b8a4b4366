//! The check of a database file before anything is written into it: `DATABASE_URL` may
//! name the file of another program.

use std::path::Path;
use std::time::Duration;

use sqlx::error::DatabaseError;
use tokio::time::{Instant, sleep};

use super::system::Access;
use crate::config::{Mistake, escape};
use crate::schema::Contents;

/// The longest wait for a lock that forbids even reading.
const TIMEOUT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);
/// `SQLITE_BUSY`.
const BUSY: &str = "5";
/// The most names that a message shows.
const SHOWN: usize = 5;

/// Checks the file.
///
/// # Errors
///
/// If it belongs to another program, or if it has no ledger and the command does not
/// create one.
pub(super) async fn check(file: &Path, access: Access) -> anyhow::Result<()> {
    if !file.exists() {
        return if access.creates() {
            Ok(())
        } else {
            Err(no_ledger(file).into())
        };
    }
    // Opening an unreadable file gives a better error.
    let Ok(contents) = read(file).await else {
        return Ok(());
    };
    if let Some(theirs) = contents.foreign_tables(access.looks()) {
        return Err(foreign(file, &theirs).into());
    }
    if !access.creates() && !contents.has_ledger() {
        return Err(no_ledger(file).into());
    }
    Ok(())
}

fn no_ledger(file: &Path) -> Mistake {
    Mistake::new(format!(
        "there is no database at {} yet: start `termitary`, create one with `termitary migrate`, or set DATABASE_URL to its place",
        escape(&file.display().to_string())
    ))
}

fn foreign(file: &Path, theirs: &[String]) -> Mistake {
    let mut names: Vec<String> = theirs.iter().take(SHOWN).map(|name| escape(name)).collect();
    if theirs.len() > SHOWN {
        names.push("…".to_owned());
    }
    Mistake::new(format!(
        "DATABASE_URL is `sqlite://{}`: the file contains tables of another program ({}), so nothing was written into it. Set DATABASE_URL to a file of its own, such as sqlite://termitary.db",
        file.display(),
        names.join(", ")
    ))
}

async fn read(file: &Path) -> sqlx::Result<Contents> {
    let end = Instant::now() + TIMEOUT;
    let mut warned = false;
    loop {
        let error = match Contents::read(file).await {
            Err(error) if is_busy(&error) && Instant::now() < end => error,
            found => return found,
        };
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(error = %error, "another process holds the database's write lock: waiting for it");
        }
        sleep(PAUSE).await;
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == BUSY)
}
