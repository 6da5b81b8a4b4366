//! Waits for the disk, once for everybody who committed meanwhile.
//!
//! A commit that waited for the disk itself would block all other writers for as long: with
//! `synchronous=FULL` SQLite releases its lock only afterwards. So writers here commit with
//! `NORMAL`, and get their result once the write-ahead log is on disk (decision 0007). The log is
//! written in order, so once a commit is on disk, everything it could have read is too.

use std::fs::File;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::BUSY_TIMEOUT;
use super::anchor::Anchor;
use super::checkpoints::{Checkpoints, checkpoint};
use crate::error::{Error, Kind};

/// Time for which others may keep the log from being copied. Unit tests block it on purpose.
const PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    BUSY_TIMEOUT
};

/// Called once the data is on disk, or the disk failed.
type Then = Box<dyn FnOnce(&Result<(), Error>) + Send>;

/// The door to the thread that waits, which starts when it is first needed.
pub(super) struct Disk {
    anchor: Arc<Anchor>,
    /// False if commits do not wait for the disk.
    durable: bool,
    checkpoints: Checkpoints,
    inbox: OnceLock<Sender<Then>>,
}

impl Disk {
    pub(super) fn new(anchor: Arc<Anchor>, durable: bool) -> Self {
        Self {
            checkpoints: Checkpoints::new(Arc::clone(&anchor)),
            anchor,
            durable,
            inbox: OnceLock::new(),
        }
    }

    /// Something is committed. Calls `then` once that, and everything before
    /// it, survives a power cut.
    pub(super) fn after(&self, then: impl FnOnce(&Result<(), Error>) + Send + 'static) {
        self.checkpoints.committed();
        self.ask(then);
    }

    /// Returns whether commits wait for the disk.
    pub(super) fn is_waited_for(&self) -> bool {
        self.durable
    }

    fn ask(&self, then: impl FnOnce(&Result<(), Error>) + Send + 'static) {
        if !self.durable {
            return then(&Ok(()));
        }
        if let Err(mpsc::SendError(then)) = self.inbox().send(Box::new(then)) {
            // Without a thread, each caller waits for the disk itself.
            then(&Log::of(Arc::clone(&self.anchor), File::sync_data).sync());
        }
    }

    /// Returns when all earlier callers have their results, and no requested work is left.
    pub(super) async fn rest(&self) {
        self.checkpoints.close().await;
        if self.inbox.get().is_some() {
            let _ = self.has_all().await; // the waiting callers got the error
        }
    }

    /// Returns when everything that is committed by now survives a power cut.
    pub(super) async fn has_all(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(|synced| {
            // A dropped caller needs no result.
            let _ = reply.send(synced.as_ref().copied().map_err(Error::repeat));
        });
        answer
            .await
            .map_err(|_| Error::internal("the thread that waits for the disk is gone"))?
    }

    fn inbox(&self) -> &Sender<Then> {
        self.inbox.get_or_init(|| {
            let (sender, inbox) = mpsc::channel();
            let log = Log::of(Arc::clone(&self.anchor), File::sync_data);
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
        // Taken before the disk is asked: these are committed.
        let waiting: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).collect();
        let synced = log.sync();
        for then in waiting {
            then(&synced);
        }
    }
}

/// The write-ahead log.
struct Log {
    anchor: Arc<Anchor>,
    /// Waits until the written data is on disk.
    flush: fn(&File) -> std::io::Result<()>,
    /// The disk failed once. The kernel counts data that it could not write as written from then
    /// on.
    doubted: bool,
}

impl Log {
    fn of(anchor: Arc<Anchor>, flush: fn(&File) -> std::io::Result<()>) -> Self {
        Self {
            anchor,
            flush,
            doubted: false,
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        if !self.doubted {
            let Err(error) = self.flush() else {
                return Ok(());
            };
            tracing::error!(%error, database = %self.anchor.file().path().display(), "the disk did not take the write-ahead log");
            self.doubted = true;
        }
        self.copy_back()?;
        self.doubted = false;
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        let log = self.anchor.log();
        // SQLite removes it with the last connection only, and the anchor is one.
        if !is_there(log)? {
            self.anchor.file().lost_its_log();
            return Err(std::io::Error::other("it was removed while it was open"));
        }
        (self.flush)(log)
    }

    /// Writes the whole log to the database file, and that to disk; then truncates the log, so that
    /// its rest is never read.
    fn copy_back(&mut self) -> Result<(), Error> {
        self.anchor.with(copy_back)?;
        self.anchor.file().has_its_name()?;
        let cut = self.anchor.log().sync_all();
        cut.map_err(|error| refused(false, 0, 0).caused_by(error))
    }
}

fn copy_back(conn: &Connection) -> Result<(), Error> {
    conn.busy_timeout(PATIENCE)?;
    let began = Instant::now();
    loop {
        match checkpoint(conn, "TRUNCATE")? {
            (false, 0, 0) => return Ok(()),
            // Somebody else copies just now; SQLite does not wait for that.
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

/// An open file cannot be removed.
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

    fn anchor(path: &Path) -> Arc<Anchor> {
        let file = Arc::new(file::File::of(path).unwrap());
        Arc::new(Anchor::new(file).unwrap())
    }

    /// A database with a row that is only in its log, and a connection that keeps it open.
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

    /// The contents of a database file without its log.
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
        Log::of(anchor(&link), File::sync_data).flush().unwrap();
    }

    #[test]
    fn a_log_that_was_removed_is_copied_to_the_database_and_takes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = database(folder.path());
        let anchor = anchor(&path);
        let mut log = Log::of(Arc::clone(&anchor), File::sync_data);
        log.sync().unwrap();
        anchor.file().is_still_there().unwrap();
        std::fs::remove_file(path.with_extension("db-wal")).unwrap();
        open.execute("INSERT INTO notes VALUES (2)", []).unwrap();
        log.sync().unwrap();
        let told = anchor.file().is_still_there().unwrap_err();
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
        let log = Log::of(anchor(&path), |_| {
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
        Log::of(anchor(&path), broken).sync().unwrap();
        assert_eq!(notes_without_log(&path), 1);
        // The part of it that may be on disk hides nothing of the database.
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
        let mut log = Log::of(anchor(&path), broken);
        assert!(log.sync().unwrap_err().is_unavailable());
        // A disk that accepts the log again does not have the lost part.
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
        let disk = Disk::new(anchor(&path), true);
        let (say, said) = mpsc::channel();
        for _ in 0..3 {
            let say = say.clone();
            disk.after(move |synced| say.send(synced.is_ok()).unwrap());
        }
        disk.rest().await;
        assert_eq!(said.try_iter().collect::<Vec<_>>(), [true; 3]);
    }
}
