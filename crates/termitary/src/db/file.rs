//! A file that is open can be removed or replaced: what is then written to it
//! ends with the process, and SQLite does not notice.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::error::Error;
#[cfg(unix)]
use crate::error::Kind;

/// Which file a path named when it was opened. Where files have no number, an
/// open one cannot be removed.
pub(super) struct File {
    path: PathBuf,
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl File {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the file where there is none, for its user alone: every event will be in
/// it. SQLite gives the files beside it the same mode, and says what is wrong with
/// the path better than this could.
pub(super) fn make_private(path: &Path) {
    let mut make = std::fs::OpenOptions::new();
    // Never one that is there: closing it would end this process's locks on it.
    make.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut make, 0o600);
    let _ = make.open(path);
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
        })
    }

    /// An error where the path names it no longer. One system call, about a
    /// microsecond.
    pub(super) fn is_still_there(&self) -> Result<(), Error> {
        let now = Self::of(&self.path)?;
        if (now.device, now.inode) == (self.device, self.inode) {
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
            "the database file {} was removed or replaced while it was open: what is written now would be lost. Put it back, or stop this process before another file takes its place",
            path.display()
        ),
    )
}

#[cfg(not(unix))]
impl File {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn is_still_there(&self) -> Result<(), Error> {
        Ok(())
    }
}
