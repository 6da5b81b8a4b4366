//! Records which database file owns the write-ahead log beside it.
//!
//! SQLite takes any `-wal` beside a file for that file's own. If another file took the place of a
//! file in use, the log of the old one would be written over the new one. So each process that
//! opens a database records, in a small file beside it, which log belongs to which file, by their
//! file numbers and creation times. A log that is known to belong to another file is refused before
//! SQLite sees it. A log without a record, or one that was copied together with its database, is
//! accepted.

use std::fs::Metadata;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::file::{File, beside, private};
use crate::error::Error;

/// The write-ahead log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    beside(database, "-wal")
}

fn note_of(database: &Path) -> PathBuf {
    beside(database, "-owner")
}

/// One file, as it can be told from all that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    number: u64,
    /// In nanoseconds; 0 where the file system does not remember it.
    made: u128,
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        let made = found.created().ok();
        let made = made.and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            #[cfg(unix)]
            number: std::os::unix::fs::MetadataExt::ino(found),
            #[cfg(not(unix))]
            number: 0,
            made: made.map_or(0, |made| made.as_nanos()),
        }
    }
}

/// A database file and the log that belongs to it.
#[derive(Debug, PartialEq, Eq)]
struct Pair {
    database: Identity,
    log: Identity,
}

impl Pair {
    /// The files that are there now. `None`: there is no log, or an empty one.
    fn found(database: &Path) -> Option<Self> {
        let log = std::fs::metadata(log_of(database)).ok()?;
        let database = std::fs::metadata(database).ok()?;
        Some(Self {
            database: Identity::of(&database),
            log: Identity::of(&log),
        })
    }

    /// The record. `None`: there is none, or it cannot be read.
    fn noted(database: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(note_of(database)).ok()?;
        let line = text.lines().find(|line| !line.starts_with('#'))?;
        let mut words = line.split_ascii_whitespace();
        let mut identity = || {
            Some(Identity {
                number: words.next()?.parse().ok()?,
                made: words.next()?.parse().ok()?,
            })
        };
        Some(Self {
            database: identity()?,
            log: identity()?,
        })
    }

    fn text(&self) -> String {
        let Self { database, log } = self;
        format!(
            "# Which write-ahead log belongs to which database file: number and time of making\n{} {} {} {}\n",
            database.number, database.made, log.number, log.made
        )
    }
}

/// An error where the log beside this database was written for another file.
pub(super) fn refuse_a_strangers_log(database: &Path) -> Result<(), Error> {
    let log = log_of(database);
    let holds_something = std::fs::metadata(&log).is_ok_and(|found| found.len() > 0);
    let (Some(found), Some(noted)) = (Pair::found(database), Pair::noted(database)) else {
        return Ok(());
    };
    if !holds_something || found.log != noted.log || found.database == noted.database {
        return Ok(());
    }
    let shared = beside(database, "-shm");
    Err(Error::invalid(format!(
        "{} is the write-ahead log of another file than the one that {} is now: opening it would destroy the database. Stop every process that uses it. To go on with the present file, remove {} and {}; else put the former file back",
        log.display(),
        database.display(),
        log.display(),
        shared.display()
    )))
}

/// Notes that the log beside this database, which is open, belongs to it. Without
/// the note a stranger's log is not noticed; nothing else depends on it.
pub(super) fn note(file: &File) {
    let Some(pair) = Pair::found(file.path()) else {
        return;
    };
    // Else the log that was found may be of another.
    if file.has_its_name().is_err() || Pair::noted(file.path()).as_ref() == Some(&pair) {
        return;
    }
    if let Err(error) = write(&note_of(file.path()), &pair.text()) {
        tracing::debug!(%error, "cannot note whose the write-ahead log is");
    }
}

/// Whole or not at all: others read it meanwhile.
fn write(note: &Path, text: &str) -> std::io::Result<()> {
    let mut aside = note.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let mut file = private()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&aside, note)
}

/// Removes the note where the last connection has removed the log.
pub(super) fn forget(database: &Path) {
    if !log_of(database).exists() {
        let _ = std::fs::remove_file(note_of(database)); // it is not there
    }
}
