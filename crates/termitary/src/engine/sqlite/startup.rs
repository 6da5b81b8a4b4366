//! The start of a process waits for a lock of another process: that one may migrate,
//! back up, or be stopped in the middle of a transaction. A process that ended instead
//! would only be started again to wait.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::file::File;
use super::holder::seconds;
use super::lock_holder;
use crate::error::{Error, Kind};

/// The longest wait for the lock at the start of a process.
pub(crate) const AT_START: Duration = Duration::from_mins(1);
/// The pause between two tries: some refusals come at once, without SQLite's own wait.
const REST: Duration = Duration::from_millis(100);
/// The primary code of `SQLITE_BUSY`; the extended ones have more bits.
pub(super) const BUSY: i32 = 5;
/// `SQLITE_READONLY`, explained by [`writable`].
pub(super) const READ_ONLY: i32 = 8;

/// Retries `act` while another process holds the lock, for up to `patience`.
pub(crate) async fn until_unlocked<T, F>(
    path: &Path,
    patience: Duration,
    mut act: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let end = Instant::now() + patience;
    let mut said = false;
    loop {
        let error = match act().await {
            Err(error) if is_locked(&error) => error,
            other => return other,
        };
        if Instant::now() >= end {
            return Err(still_locked(path, patience).caused_by(error));
        }
        if !said {
            said = true;
            tracing::warn!(
                database = %path.display(),
                patience_seconds = patience.as_secs(),
                "another process holds the database's write lock: waiting for it"
            );
        }
        tokio::time::sleep(REST).await;
    }
}

fn still_locked(path: &Path, patience: Duration) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "another process held the write lock of {} for {} seconds: let it finish, or find it (`fuser {}`) and end it",
            path.display(),
            patience.as_secs(),
            path.display()
        ),
    )
}

/// Makes a read-only file an invalid configuration: a retry does not fix it.
pub(crate) fn writable(path: &Path, error: Error) -> Error {
    if code(&error) != Some(READ_ONLY) {
        return error;
    }
    Error::invalid(format!(
        "the database file {} is read-only for this user: give it, and its folder, to the user that runs this program",
        path.display()
    ))
    .caused_by(error)
}

/// Returns whether the error says that another process writes.
fn is_locked(error: &Error) -> bool {
    error.is_busy() || code(error) == Some(BUSY)
}

/// The error of a caller that met another process's lock for the whole time.
pub(super) fn locked_elsewhere(file: &File, patience: Duration) -> Error {
    let path = file.path().display();
    let who = match lock_holder::process(file.path()) {
        Some(who) => format!("another process ({who})"),
        None => format!("another process (`fuser {path}` names those that have the file open)"),
    };
    Error::new(
        Kind::Busy,
        format!(
            "the database is locked: {who} held the write lock of {path} for {}",
            seconds(patience)
        ),
    )
}

fn code(error: &Error) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref().and_then(primary_code)
}

/// The primary code of SQLite, without the details of the extended one.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    #[tokio::test]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    async fn a_lock_that_is_held_for_too_long_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locked.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .busy_timeout(Duration::ZERO);
        let mut holder = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN EXCLUSIVE")
            .execute(&mut holder)
            .await
            .unwrap();
        let mut tries = 0;
        let refused = until_unlocked(&path, REST * 3, || {
            tries += 1;
            async {
                let mut other = SqliteConnection::connect_with(&options).await?;
                sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await?;
                Ok(())
            }
        })
        .await
        .unwrap_err();
        assert!(tries > 1, "it did not wait");
        assert!(refused.is_unavailable(), "{refused:?}");
        assert!(refused.to_string().contains("locked.db"), "{refused}");
        assert!(refused.to_string().contains("fuser"), "{refused}");
    }

    #[tokio::test]
    async fn any_other_error_is_told_at_once() {
        let mut tries = 0;
        let refused = until_unlocked(Path::new("x.db"), AT_START, || {
            tries += 1;
            async { Err::<(), _>(Error::from(sqlx::Error::RowNotFound)) }
        })
        .await;
        assert!(refused.is_err());
        assert_eq!(tries, 1);
    }
}
