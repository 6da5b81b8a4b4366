//! Waits for the disk, once for all commits of the meantime.
//!
//! A commit that waited itself would block all other writers for as long: with
//! `synchronous=FULL` SQLite releases its lock only afterwards. So writers here commit
//! with `NORMAL`, and get their reply once the write-ahead log is on the disk (decision
//! 0007). The log is written in order, so once a commit is on disk, everything it could
//! have read is too.

use std::fs::File;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoints::{Checkpoints, checkpoint};
use super::engine::BUSY_TIMEOUT;
use super::last_connection::LastConnection;
use crate::error::{Error, Kind};

/// The longest wait for others that keep the log from being copied. In unit tests they
/// always do.
const PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    BUSY_TIMEOUT
};

/// Called with the result of the disk.
type Then = Box<dyn FnOnce(&Result<(), Error>) + Send>;

/// Sends to the thread that waits, which starts when it is first needed.
pub(super) struct Disk {
    last: Arc<LastConnection>,
    /// Commits wait for the disk.
    durable: bool,
    checkpoints: Checkpoints,
    inbox: OnceLock<Sender<Then>>,
}

impl Disk {
    pub(super) fn new(last: Arc<LastConnection>, durable: bool) -> Self {
        Self {
            checkpoints: Checkpoints::new(Arc::clone(&last)),
            last,
            durable,
            inbox: OnceLock::new(),
        }
    }

    /// Called after a commit. Calls `then` once that commit and all earlier ones survive
    /// a power cut.
    pub(super) fn after(&self, then: impl FnOnce(&Result<(), Error>) + Send + 'static) {
        self.checkpoints.committed();
        self.request(then);
    }

    /// Returns whether commits wait for the disk.
    pub(super) fn is_waited_for(&self) -> bool {
        self.durable
    }

    fn request(&self, then: impl FnOnce(&Result<(), Error>) + Send + 'static) {
        if !self.durable {
            return then(&Ok(()));
        }
        if let Err(mpsc::SendError(then)) = self.inbox().send(Box::new(then)) {
            // Without the thread the caller waits itself.
            then(&Log::of(Arc::clone(&self.last), File::sync_data).sync());
        }
    }

    /// Returns when every earlier caller has its reply, and no further checkpoint runs.
    pub(super) async fn rest(&self) {
        self.checkpoints.close().await;
        if self.inbox.get().is_some() {
            let _ = self.has_all().await; // the callers have the error
        }
    }

    /// Returns when everything that is committed now survives a power cut.
    pub(super) async fn has_all(&self) -> Result<(), Error> {
        let (reply, synced) = oneshot::channel();
        self.request(|synced| {
            // A caller that stopped waiting needs no reply.
            let _ = reply.send(synced.as_ref().copied().map_err(Error::repeat));
        });
        synced
            .await
            .map_err(|_| Error::internal("the thread that waits for the disk is gone"))?
    }

    fn inbox(&self) -> &Sender<Then> {
        self.inbox.get_or_init(|| {
            let (sender, inbox) = mpsc::channel();
            let log = Log::of(Arc::clone(&self.last), File::sync_data);
            let started = std::thread::Builder::new()
                .name("termitary-disk".to_owned())
                .spawn(move || serve(log, &inbox));
            if let Err(error) = started {
                tracing::error!(%error, "cannot start the thread that waits for the disk");
            }
            sender
        })
    }
}

fn serve(mut log: Log, inbox: &Receiver<Then>) {
    while let Ok(first) = inbox.recv() {
        // Taken before the sync: these are committed.
        let waiting: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).collect();
        let synced = log.sync();
        for then in waiting {
            then(&synced);
        }
    }
}

/// The write-ahead log.
struct Log {
    last: Arc<LastConnection>,
    /// Waits until the disk has all of the log.
    flush: fn(&File) -> std::io::Result<()>,
    /// The disk failed once. The kernel counts pages that it could not write as written
    /// from then on.
    doubted: bool,
}

impl Log {
    fn of(last: Arc<LastConnection>, flush: fn(&File) -> std::io::Result<()>) -> Self {
        Self {
            last,
            flush,
            doubted: false,
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        if !self.doubted {
            let Err(error) = self.flush() else {
                return Ok(());
            };
            tracing::error!(%error, database = %self.last.file().path().display(), "the disk did not take the write-ahead log");
            self.doubted = true;
        }
        self.copy_back()?;
        self.doubted = false;
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        let log = self.last.log();
        // SQLite removes it with the last connection only, which is this one.
        if !is_there(log)? {
            self.last.file().lost_its_log();
            return Err(std::io::Error::other("it was removed while it was open"));
        }
        (self.flush)(log)
    }

    /// Writes all of the log to the database file, and that to the disk; then cuts the
    /// log off, so that nobody reads the rest of it.
    fn copy_back(&mut self) -> Result<(), Error> {
        self.last.with(copy_back)?;
        self.last.file().has_its_name()?;
        let cut = self.last.log().sync_all();
        cut.map_err(|error| refused(false, 0, 0).caused_by(error))
    }
}

fn copy_back(conn: &Connection) -> Result<(), Error> {
    conn.busy_timeout(PATIENCE)?;
    let began = Instant::now();
    loop {
        match checkpoint(conn, "TRUNCATE")? {
            (false, 0, 0) => return Ok(()),
            // Another connection copies now; SQLite does not wait for that.
            (_, -1, _) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            (busy, log, copied) => return Err(refused(busy, log, copied)),
        }
    }
}

/// Returns whether a log still has its name.
#[cfg(unix)]
fn is_there(log: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(log.metadata()?.nlink() > 0)
}

/// An open file cannot be removed here.
#[cfg(not(unix))]
fn is_there(_: &File) -> std::io::Result<bool> {
    Ok(true)
}

fn refused(busy: bool, log: i64, copied: i64) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the disk did not take the write-ahead log, and the log could not be copied to the database either (others in the way: {busy}, {copied} of {log} pages): what was committed may not survive a power cut"
        ),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    use rusqlite::Connection;

    use super::super::file;
    use super::*;

    fn last(path: &Path) -> Arc<LastConnection> {
        let file = Arc::new(file::File::of(path).unwrap());
        Arc::new(LastConnection::new(file).unwrap())
    }

    /// A database with a row that is in its log only, and what keeps it open.
    fn database(folder: &Path) -> (PathBuf, Connection) {
        let path = folder.join("disk.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE notes (id); PRAGMA wal_checkpoint(TRUNCATE);
             INSERT INTO notes VALUES (1)",
        )
        .unwrap();
        (path, conn)
    }

    /// The rows of a database file without its log.
    fn notes_without_log(path: &Path) -> i64 {
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        let conn = Connection::open(&copy).unwrap();
        conn.query_row("SELECT COUNT(*) FROM notes", [], |row| row.get(0))
            .unwrap()
    }

    fn broken(_: &File) -> std::io::Result<()> {
        Err(std::io::Error::other("broken"))
    }

    #[test]
    fn the_log_is_found_beside_the_file_that_a_link_names() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Log::of(last(&link), File::sync_data).flush().unwrap();
    }

    #[test]
    fn a_log_that_was_removed_is_copied_to_the_database_and_takes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = database(folder.path());
        let last = last(&path);
        let mut log = Log::of(Arc::clone(&last), File::sync_data);
        log.sync().unwrap();
        last.file().is_still_there().unwrap();
        std::fs::remove_file(path.with_extension("db-wal")).unwrap();
        open.execute("INSERT INTO notes VALUES (2)", []).unwrap();
        log.sync().unwrap();
        let told = last.file().is_still_there().unwrap_err();
        assert!(
            told.to_string().contains("removed while it was open"),
            "{told}"
        );
        assert_eq!(notes_without_log(&path), 2);
    }

    #[test]
    fn nobody_is_answered_before_the_disk_has_it_and_then_everybody_is() {
        static SYNCED: Mutex<u32> = Mutex::new(0);
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        let log = Log::of(last(&path), |_| {
            *SYNCED.lock().unwrap() += 1;
            Ok(())
        });
        let (ask, inbox) = mpsc::channel::<Then>();
        let (say, said) = mpsc::channel();
        for _ in 0..3 {
            let say = say.clone();
            let then = move |synced: &Result<(), Error>| {
                say.send((synced.is_ok(), *SYNCED.lock().unwrap())).unwrap();
            };
            ask.send(Box::new(then)).unwrap();
        }
        drop(ask);
        let busy = SYNCED.lock().unwrap();
        let disk = std::thread::spawn(move || serve(log, &inbox));
        assert!(said.recv_timeout(Duration::from_millis(50)).is_err());
        drop(busy);
        disk.join().unwrap();
        assert_eq!(said.try_iter().collect::<Vec<_>>(), [(true, 1); 3]);
    }

    #[test]
    fn what_the_disk_did_not_take_is_copied_to_the_database_before_anybody_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        assert_eq!(notes_without_log(&path), 0);
        Log::of(last(&path), broken).sync().unwrap();
        assert_eq!(notes_without_log(&path), 1);
        // No part of the log that the disk may have hides a row of the database.
        let log = path.with_extension("db-wal");
        assert_eq!(std::fs::metadata(log).unwrap().len(), 0);
    }

    #[test]
    fn what_cannot_be_copied_either_is_an_error_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = database(folder.path());
        let reader = Connection::open(&path).unwrap();
        reader
            .execute_batch("BEGIN; SELECT COUNT(*) FROM notes")
            .unwrap();
        open.execute_batch("INSERT INTO notes VALUES (2)").unwrap();
        let mut log = Log::of(last(&path), broken);
        assert!(log.sync().unwrap_err().is_unavailable());
        // A disk that takes the log again does not have what it lost.
        log.flush = File::sync_data;
        assert!(log.sync().is_err());
        reader.execute_batch("COMMIT").unwrap();
        log.sync().unwrap();
        assert_eq!(notes_without_log(&path), 2);
    }

    #[tokio::test]
    async fn whoever_asked_before_is_answered_before_it_rests() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _open) = database(folder.path());
        let disk = Disk::new(last(&path), true);
        let (say, said) = mpsc::channel();
        for _ in 0..3 {
            let say = say.clone();
            disk.after(move |synced| say.send(synced.is_ok()).unwrap());
        }
        disk.rest().await;
        assert_eq!(said.try_iter().collect::<Vec<_>>(), [true; 3]);
    }
}
