//! The owner of the write-ahead log beside a database file.
//!
//! SQLite takes any `-wal` beside a file for that file's own. If a file was put in the
//! place of one that was in use, SQLite would write the log of the old one over it. So
//! each process that opens a database notes, in a small file beside it, which log
//! belongs to which file, by their numbers in the file system and their creation times.
//! A log that is known to belong to another file is refused before SQLite sees it. A
//! log without a note, or one that was copied together with its database, is accepted.

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

/// The identity of a file, which differs from that of every earlier file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    number: u64,
    /// In nanoseconds; 0 if the file system does not store it.
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
    /// The files that exist now; `None` without a log.
    fn found(database: &Path) -> Option<Self> {
        let log = std::fs::metadata(log_of(database)).ok()?;
        let database = std::fs::metadata(database).ok()?;
        Some(Self {
            database: Identity::of(&database),
            log: Identity::of(&log),
        })
    }

    /// The note; `None` if it is missing or cannot be read.
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

/// Returns an error if the log beside this database was written for another file.
pub(super) fn refuse_a_foreign_log(database: &Path) -> Result<(), Error> {
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

/// Notes that the log beside this open database belongs to it. Without the note the log
/// of another file is not noticed; nothing else depends on it.
pub(super) fn note(file: &File) {
    let Some(pair) = Pair::found(file.path()) else {
        return;
    };
    // Otherwise the log may belong to another file.
    if file.has_its_name().is_err() || Pair::noted(file.path()).as_ref() == Some(&pair) {
        return;
    }
    if let Err(error) = write(&note_of(file.path()), &pair.text()) {
        tracing::debug!(%error, "cannot note the owner of the write-ahead log");
    }
}

/// Writes the note whole or not at all: other processes read it meanwhile.
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

/// Removes the note if the last connection has removed the log.
pub(super) fn forget(database: &Path) {
    if !log_of(database).exists() {
        let _ = std::fs::remove_file(note_of(database)); // it is not there
    }
}
