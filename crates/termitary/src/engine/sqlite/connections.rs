//! Connections that are kept unchecked between two uses: sqlx's pool checks each returned
//! connection in a task of its own, and that costs as much as most reads.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::file::File;
use crate::engine::{Conn, Home, Reader};
use crate::error::{Error, Kind};
use crate::lock::Mutex;

/// A connection to a file does not die by itself, but the thread behind it can. It
/// is checked this often.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// The longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Up to a number of connections, each opened when it is first needed.
pub(super) struct Connections {
    options: SqliteConnectOptions,
    file: Arc<File>,
    most: usize,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Kept>>,
}

struct Kept {
    conn: Conn,
    /// When the connection was last known to work.
    seen: Instant,
}

/// A connection that goes back to its [`Connections`] when it is dropped.
///
/// Dropped in the middle of a statement, it can be used again: SQLite ends a
/// statement before the next one begins, and the rest of its rows reaches nobody.
pub(crate) struct Pooled {
    kept: Option<Kept>,
    home: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(options: SqliteConnectOptions, file: Arc<File>, most: usize) -> Arc<Self> {
        Arc::new(Self {
            options,
            file,
            most,
            places: Arc::new(Semaphore::new(most)),
            idle: Mutex::new(Vec::with_capacity(most)),
        })
    }

    pub(super) async fn read(self: &Arc<Self>) -> Result<Reader, Error> {
        self.get().await.map(|conn| Reader::new(Home::Sqlite(conn)))
    }

    pub(super) async fn get(self: &Arc<Self>) -> Result<Pooled, Error> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.wait().await?,
        };
        let idle = self.idle.lock().pop();
        let kept = match idle {
            Some(kept) if kept.seen.elapsed() < TRUSTED_FOR => kept,
            Some(kept) => self.checked(kept).await?,
            None => self.connect().await?,
        };
        Ok(Pooled {
            kept: Some(kept),
            home: Arc::clone(self),
            _place: place,
        })
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(PATIENCE, place)
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "every connection that reads is busy"))?
            .map_err(|_| Error::new(Kind::Unavailable, "the database is closed"))
    }

    /// The connection, or another one if it is broken.
    async fn checked(&self, mut kept: Kept) -> Result<Kept, Error> {
        let works = kept.conn.sqlite()?.ping().await.is_ok();
        if works {
            Ok(Kept::new(kept.conn))
        } else {
            self.connect().await
        }
    }

    async fn connect(&self) -> Result<Kept, Error> {
        self.file.is_still_there()?;
        let conn = self.options.connect().await?;
        self.file.is_still_there()?;
        Ok(Kept::new(Conn::own(conn)))
    }

    /// Refuses every further use. Connections in use are closed when they come back.
    pub(super) async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for kept in idle {
            if let Some(conn) = kept.conn.into_own() {
                let _ = conn.close().await; // nothing is left to do on it
            }
        }
    }

    /// [`Connections::close`], once every connection has come back.
    pub(super) async fn close_idle(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _all = self.places.acquire_many(all).await; // an error: closed before
        self.close().await;
    }

    /// Returns whether every connection has come back.
    #[cfg(all(test, feature = "testing"))]
    pub(super) fn at_rest(&self) -> bool {
        self.places.available_permits() == self.most
    }
}

impl Kept {
    fn new(conn: Conn) -> Self {
        Self {
            conn,
            seen: Instant::now(),
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take()
            && !self.home.places.is_closed()
        {
            self.home.idle.lock().push(kept);
        }
    }
}

#[expect(clippy::expect_used, reason = "only the drop takes the connection")]
impl Deref for Pooled {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.kept.as_ref().expect("it is not dropped").conn
    }
}

#[expect(clippy::expect_used, reason = "only the drop takes the connection")]
impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.kept.as_mut().expect("it is not dropped").conn
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::db::Db;

    async fn desk() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/read.db", folder.path().display());
        (Db::open(&url).await.unwrap(), folder)
    }

    #[tokio::test]
    async fn a_reader_sees_what_was_committed_and_changes_nothing() {
        let (db, _folder) = desk().await;
        drop(db.read().await.unwrap());
        let mut tx = db.begin().await.unwrap();
        sqlx::raw_sql("CREATE TABLE notes (id INTEGER); INSERT INTO notes VALUES (1)")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut reader = db.read().await.unwrap();
        let notes: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM notes")
            .fetch_one(&mut *reader)
            .await
            .unwrap();
        assert_eq!(notes, 1);
        let write = sqlx::raw_sql("DELETE FROM notes")
            .execute(&mut *reader)
            .await;
        assert!(write.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_was_dropped_half_way_answers_the_next_question() {
        let (db, _folder) = desk().await;
        for n in 0..20_i64 {
            let mut reader = db.read().await.unwrap();
            let long = sqlx::query(
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 10000) SELECT i FROM n",
            )
            .fetch_all(&mut *reader);
            // Given up after the request, and before the reply.
            let given_up = tokio::time::timeout(std::time::Duration::from_micros(200), long).await;
            drop(given_up);
            drop(reader);
            let mut reader = db.read().await.unwrap();
            let answer: i64 = sqlx::query_scalar("SELECT $1")
                .bind(n)
                .fetch_one(&mut *reader)
                .await
                .unwrap();
            assert_eq!(answer, n);
        }
    }

    #[tokio::test]
    async fn long_reads_wait_for_each_other_and_nobody_waits_for_them() {
        let (db, _folder) = desk().await;
        let mut held = Vec::new();
        for _ in 0..crate::engine::sqlite::LONG_READERS {
            held.push(db.read_long().await.unwrap());
        }
        let waits = db.read_long();
        tokio::pin!(waits);
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        assert!(db.read().await.is_ok());
        held.pop();
        assert!(waits.await.is_ok());
        db.close().await;
        assert!(db.read_long().await.is_err());
    }

    #[tokio::test]
    async fn more_readers_than_connections_wait_until_one_comes_back() {
        let (db, _folder) = desk().await;
        let mut held = Vec::new();
        for _ in 0..crate::engine::sqlite::READERS {
            held.push(db.read().await.unwrap());
        }
        let waits = db.read();
        tokio::pin!(waits);
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        held.pop();
        assert!(waits.await.is_ok());
        db.close().await;
        assert!(db.read().await.is_err_and(|error| !error.is_invalid()));
    }
}
