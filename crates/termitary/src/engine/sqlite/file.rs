//! An open file can be removed or replaced: later writes to it end with the process, and
//! SQLite does not notice. The same holds for the write-ahead log beside it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OpenFlags};

use super::wal_owner;
use crate::error::{Error, Kind};

/// The file that a path named when it was opened. On systems where files have no number,
/// an open file cannot be removed.
pub(super) struct File {
    path: PathBuf,
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
    /// The log was removed while it was open.
    log_gone: AtomicBool,
}

impl File {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that the write-ahead log was removed: nothing more is written to it.
    pub(super) fn lost_its_log(&self) {
        self.log_gone.store(true, Ordering::Release);
    }

    /// Returns an error if the path names another file now, or the log was removed. Costs
    /// one system call, about a microsecond.
    pub(super) fn is_still_there(&self) -> Result<(), Error> {
        self.has_its_name()?;
        if self.log_gone.load(Ordering::Acquire) {
            return Err(log_gone(&self.path));
        }
        Ok(())
    }
}

/// Creates a missing file, for its user alone, since every event will be in it. SQLite
/// gives the files beside it the same mode, and reports a wrong path in more detail than
/// this function could.
pub(super) fn make_private(path: &Path) {
    let mut make = private();
    // Only a new file: closing an existing one would end this process's locks on it.
    make.write(true).create_new(true);
    let _ = make.open(path);
}

/// Options that create files for their user alone.
pub(super) fn private() -> std::fs::OpenOptions {
    let mut make = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut make, 0o600);
    make
}

/// The path of a file that is kept beside the database.
pub(super) fn beside(database: &Path, end: &str) -> PathBuf {
    // SQLite follows links to the database, and has its files beside the file itself.
    let real = database.canonicalize();
    let mut path = real
        .unwrap_or_else(|_| database.to_owned())
        .into_os_string();
    path.push(end);
    path.into()
}

/// A connection for one thread to a database that is there: not made where it is
/// gone, another in its place would be empty.
pub(super) fn existing(database: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(database, flags)
}

#[cfg(unix)]
impl File {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).map_err(|error| gone(path).caused_by(error))?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            log_gone: AtomicBool::new(false),
        })
    }

    /// An error where the path names another file, or none. While a connection is
    /// open no other file gets the same number.
    pub(super) fn has_its_name(&self) -> Result<(), Error> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(&self.path);
        let found = found.map_err(|error| gone(&self.path).caused_by(error))?;
        if (found.dev(), found.ino()) == (self.device, self.inode) {
            Ok(())
        } else {
            Err(gone(&self.path))
        }
    }
}

#[cfg(unix)]
fn gone(path: &Path) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the database file {} was removed or replaced while it was open: what is written now would be lost. Put it back; or, to go on with another file, stop this process, remove the old {} and -shm, and start again",
            path.display(),
            wal_owner::log_of(path).display()
        ),
    )
}

fn log_gone(path: &Path) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the write-ahead log {} was removed while it was open: nothing more is written. What it held was copied to the database file; restart every process that uses this file",
            wal_owner::log_of(path).display()
        ),
    )
}

#[cfg(not(unix))]
impl File {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            log_gone: AtomicBool::new(false),
        })
    }

    pub(super) fn has_its_name(&self) -> Result<(), Error> {
        Ok(())
    }
}
