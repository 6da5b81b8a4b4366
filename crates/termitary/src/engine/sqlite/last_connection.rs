//! A connection that is open as long as the database is.
//!
//! SQLite removes a write-ahead log, by its path, with the last connection to it. If the
//! path names another file by then, SQLite would remove that file's log. So one
//! connection here outlives all others, and is never closed while another file has the
//! database's name. The log is copied back to the database on this connection too,
//! since the path is not opened again.

use std::sync::Arc;

use rusqlite::Connection;

use super::checkpoints::checkpoint;
use super::file::{File, existing};
use super::wal_owner;
use crate::error::{Error, Kind};
use crate::lock::Mutex;

pub(super) struct LastConnection {
    file: Arc<File>,
    /// The log. SQLite locks the database and its shared memory, never the log: this
    /// handle takes no lock away when it is closed.
    log: std::fs::File,
    /// `None` after [`LastConnection::close`].
    conn: Mutex<Option<Connection>>,
}

impl LastConnection {
    /// Another connection must have opened the log of `file` already.
    pub(super) fn new(file: Arc<File>) -> Result<Self, Error> {
        file.is_still_there()?;
        let conn = existing(file.path())?;
        file.is_still_there()?;
        // A connection that has read holds a lock on the file until it closes.
        conn.query_row("SELECT COUNT(*) FROM sqlite_master", [], |_| Ok(()))?;
        let log = wal_owner::log_of(file.path());
        let log = std::fs::File::options().write(true).open(&log);
        let log = log.map_err(|error| {
            Error::new(Kind::Unavailable, "the write-ahead log cannot be opened").caused_by(error)
        })?;
        wal_owner::note(&file);
        Ok(Self {
            file,
            log,
            conn: Mutex::new(Some(conn)),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The log that the connections here write, even if its path names another file now.
    pub(super) fn log(&self) -> &std::fs::File {
        &self.log
    }

    /// Runs `work` on the connection.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &*self.conn.lock() {
            Some(conn) => work(conn),
            None => Err(sqlx::Error::PoolClosed.into()),
        }
    }

    /// Closes the connection: SQLite removes the log with the last one. If the file was
    /// replaced, this connection stays open until the process ends.
    pub(super) fn close(&self) {
        let Some(conn) = self.conn.lock().take() else {
            return;
        };
        if let Err(error) = self.file.is_still_there() {
            tracing::warn!(%error, "closing without tidying the write-ahead log");
            // Its pages go to the file that they belong to, if that is possible.
            let _ = checkpoint(&conn, "PASSIVE");
            std::mem::forget(conn);
            return;
        }
        drop(conn);
        wal_owner::forget(self.file.path());
    }
}

impl Drop for LastConnection {
    fn drop(&mut self) {
        self.close();
    }
}
