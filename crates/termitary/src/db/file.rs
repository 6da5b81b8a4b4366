//! A file that is open can be removed or replaced: what is then written to it
//! ends with the process, and SQLite does not notice.

use std::path::Path;

use crate::error::Error;
#[cfg(unix)]
use crate::error::Kind;

/// Which file a path named when it was opened.
#[cfg(unix)]
pub(super) struct File {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
impl File {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).map_err(|error| gone(path).caused_by(error))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Whether the path names it still. One system call, about a microsecond.
    pub(super) fn is_still(&self, path: &Path) -> Result<(), Error> {
        let now = Self::of(path)?;
        if (now.device, now.inode) == (self.device, self.inode) {
            Ok(())
        } else {
            Err(gone(path))
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

/// Where files have no number, an open one cannot be removed.
#[cfg(not(unix))]
pub(super) struct File;

#[cfg(not(unix))]
impl File {
    pub(super) fn of(_: &Path) -> Result<Self, Error> {
        Ok(Self)
    }

    pub(super) fn is_still(&self, _: &Path) -> Result<(), Error> {
        Ok(())
    }
}
