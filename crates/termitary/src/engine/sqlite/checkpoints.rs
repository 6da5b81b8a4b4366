//! Copies the write-ahead log back to the database, beside the work.
//!
//! SQLite does it in the commit that finds the log long, and its next writer restarts
//! the log only if nobody reads in it and nobody has written since. With several busy
//! processes that is never the case: the log grows, and every single commit copies a
//! little and waits twice for the disk. Here a separate thread copies now and then, and
//! restarts a long log.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::Connection;

use super::last_connection::LastConnection;
use crate::error::Error;

/// The number of commits between two looks at the log.
const COMMITS: u32 = 128;
/// Pages of 4 KiB after which the log is restarted.
const LONG: i64 = 4000;
/// The number of waits for connections that still read in the log, and the length of
/// each: about 10 ms in all.
const WAITS: i32 = 100;
const WAIT: Duration = Duration::from_micros(50);

/// Sends to the thread, which starts when it is first needed and ends with this.
pub(super) struct Checkpoints {
    last: Arc<LastConnection>,
    commits: AtomicU32,
    signals: OnceLock<SyncSender<Signal>>,
}

enum Signal {
    Look,
    /// The last signal: nothing is touched after it.
    Close(tokio::sync::oneshot::Sender<()>),
}

impl Checkpoints {
    pub(super) fn new(last: Arc<LastConnection>) -> Self {
        Self {
            last,
            commits: AtomicU32::new(0),
            signals: OnceLock::new(),
        }
    }

    /// Called after each commit of this process.
    pub(super) fn committed(&self) {
        if (self.commits.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(COMMITS) {
            // Full: the thread looks anyway.
            let _ = self
                .signals
                .get_or_init(|| self.start())
                .try_send(Signal::Look);
        }
    }

    pub(super) async fn close(&self) {
        let (done, closed) = tokio::sync::oneshot::channel();
        if let Some(signals) = self.signals.get().cloned() {
            // The channel may be full, so that this blocks.
            let _ = tokio::task::spawn_blocking(move || signals.send(Signal::Close(done))).await;
            let _ = closed.await; // an error: it ended before
        }
    }

    fn start(&self) -> SyncSender<Signal> {
        let (signals, received) = mpsc::sync_channel(1);
        let log = Log {
            last: Arc::clone(&self.last),
            long: LONG,
        };
        let started = std::thread::Builder::new()
            .name("termitary-log".to_owned())
            .spawn(move || serve(log, &received));
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the thread that copies the write-ahead log");
        }
        signals
    }
}

fn serve(mut log: Log, signals: &Receiver<Signal>) {
    while let Ok(signal) = signals.recv() {
        if let Signal::Close(done) = signal {
            let _ = done.send(());
            return;
        }
        if let Err(error) = log.look() {
            // Commits copy a very long log themselves.
            tracing::debug!(%error, "the write-ahead log was not copied");
        }
    }
}

struct Log {
    last: Arc<LastConnection>,
    /// The length at which it is restarted.
    long: i64,
}

impl Log {
    fn look(&mut self) -> Result<(), Error> {
        let last = Arc::clone(&self.last);
        last.file().is_still_there()?;
        last.with(|conn| Ok(self.look_on(conn)?))
    }

    fn look_on(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        // SQLite's own wait sleeps for milliseconds; a read takes a fraction of one.
        conn.busy_handler(Some(|waited| {
            std::thread::sleep(WAIT);
            waited < WAITS
        }))?;
        let (_, pages, _) = checkpoint(conn, "PASSIVE")?;
        if pages < self.long {
            self.long = LONG;
            return Ok(());
        }
        // The rest to copy is short now: writers wait for that alone.
        let (busy, pages, _) = checkpoint(conn, "RESTART")?;
        // A long read is not waited for at every look.
        self.long = if busy { pages + LONG / 4 } else { LONG };
        Ok(())
    }
}

/// Runs a checkpoint. Returns whether another connection was in the way, the pages of
/// the log, and the number of copied ones.
pub(super) fn checkpoint(conn: &Connection, how: &str) -> rusqlite::Result<(bool, i64, i64)> {
    let sql = format!("PRAGMA wal_checkpoint({how})");
    conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use super::super::file::File;
    use super::*;

    /// A database with `pages` in a log that nobody else copies.
    fn database(folder: &Path, pages: i64) -> (Log, Connection) {
        let path = folder.join("log.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE notes (text)",
        )
        .unwrap();
        fill(&conn, pages);
        let file = Arc::new(File::of(&path).unwrap());
        let log = Log {
            last: Arc::new(LastConnection::new(file).unwrap()),
            long: LONG,
        };
        (log, conn)
    }

    fn fill(conn: &Connection, pages: i64) {
        conn.execute("INSERT INTO notes VALUES (zeroblob(?1 * 4096))", [pages])
            .unwrap();
    }

    fn pages(conn: &Connection) -> i64 {
        checkpoint(conn, "PASSIVE").unwrap().1
    }

    #[test]
    fn a_log_that_is_never_left_alone_begins_anew_where_it_is_long() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, conn) = database(folder.path(), 1);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let reader = Connection::open(folder.path().join("log.db")).unwrap();
                    while !ended.load(Ordering::Relaxed) {
                        let read = "SELECT COUNT(*) FROM notes";
                        reader.query_row(read, [], |_| Ok(())).unwrap();
                    }
                });
            }
            for _ in 0..8 {
                fill(&conn, LONG / 2);
                log.look().unwrap();
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(pages(&conn) < 2 * LONG);
    }

    #[test]
    fn whoever_reads_for_long_is_waited_for_once_in_so_many_pages() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, conn) = database(folder.path(), LONG);
        let reader = Connection::open(log.last.file().path()).unwrap();
        reader
            .execute_batch("BEGIN; SELECT COUNT(*) FROM notes")
            .unwrap();
        fill(&conn, 1);
        log.look().unwrap();
        assert!(log.long > LONG + LONG / 4);
        reader.execute_batch("COMMIT").unwrap();
        fill(&conn, 2 * LONG);
        log.look().unwrap();
        assert_eq!(log.long, LONG);
    }

    #[tokio::test]
    async fn it_looks_after_so_many_commits_and_never_once_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (log, conn) = database(folder.path(), LONG);
        let checkpoints = Checkpoints::new(Arc::clone(&log.last));
        for _ in 0..COMMITS {
            checkpoints.committed();
        }
        checkpoints.close().await;
        fill(&conn, LONG);
        for _ in 0..COMMITS {
            checkpoints.committed();
        }
        checkpoints.close().await;
        fill(&conn, 1);
        let pages = pages(&conn);
        assert!((LONG..LONG + 100).contains(&pages), "{pages}");
    }
}
