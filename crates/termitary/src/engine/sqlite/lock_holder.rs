//! The process that holds a database's write lock, as far as the system tells.

use std::path::Path;

#[cfg(target_os = "linux")]
use super::file::beside;

/// The process with the write lock of this database, such as `sqlite3, pid 42`.
/// `None` where the system does not say, or it is this process.
#[cfg(target_os = "linux")]
pub(super) fn process(database: &Path) -> Option<String> {
    use std::os::linux::fs::MetadataExt as _;
    let shared = beside(database, "-shm");
    let found = std::fs::metadata(shared).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = pid(&locks, found.st_ino())?;
    if pid == std::process::id() {
        return None;
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(match name.trim() {
        "" => format!("pid {pid}"),
        name => format!("{name}, pid {pid}"),
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn process(_: &Path) -> Option<String> {
    None
}

/// The process that has locked the byte of the one writer in the shared memory
/// with this number, from the lines of `/proc/locks`, such as
/// `1: POSIX  ADVISORY  WRITE 42 00:1f:9001 120 120`.
#[cfg(target_os = "linux")]
fn pid(locks: &str, inode: u64) -> Option<u32> {
    /// `WAL_WRITE_LOCK` of SQLite's file format.
    const WRITER: u64 = 120;
    // An arrow marks those who wait.
    let mut held = locks
        .lines()
        .filter(|line| !line.contains("->") && line.contains("POSIX"));
    held.find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip_while(|w| *w != "WRITE");
        let pid = words.nth(1)?.parse().ok()?;
        let file = words.next()?.rsplit(':').next()?;
        let from: u64 = words.next()?.parse().ok()?;
        let to = words.next()?;
        let to: u64 = if to == "EOF" {
            u64::MAX
        } else {
            to.parse().ok()?
        };
        let is_it = file.parse() == Ok(inode) && (from..=to).contains(&WRITER);
        is_it.then_some(pid)
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::pid;

    #[test]
    fn the_writer_is_found_by_its_lock() {
        let locks = "\
1: POSIX  ADVISORY  READ 7 00:1f:9001 123 123
2: FLOCK  ADVISORY  WRITE 8 00:1f:9001 0 EOF
2: -> POSIX  ADVISORY  WRITE 9 00:1f:9002 120 120
3: POSIX  ADVISORY  WRITE 42 00:1f:9001 120 120
";
        assert_eq!(pid(locks, 9001), Some(42));
        assert_eq!(pid(locks, 9002), None, "it waits");
    }
}
