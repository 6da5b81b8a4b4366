//! Facts about a database file and the disk that it is on.

use std::path::{Path, PathBuf};

use super::engine::Engine;
use super::file::beside;

/// File systems of other machines. SQLite's write-ahead log needs memory that all
/// processes share, which these do not give to two machines.
const NETWORK: [&str; 11] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
];

/// The state of a database file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) bytes: u64,
    /// The size of the write-ahead log.
    pub(crate) log_bytes: u64,
    /// Free bytes of the disk for this user; `None` if the system does not say.
    pub(crate) free_bytes: Option<u64>,
    /// The permission bits of the file and of its log.
    pub(crate) mode: Option<u32>,
    /// This user can write the file and create files beside it.
    pub(crate) writable: bool,
    /// The kind of the network file system, if it is on one.
    pub(crate) network: Option<String>,
}

impl Engine {
    /// Reads the facts from the file system.
    pub(crate) fn facts(&self) -> FileFacts {
        FileFacts::of(self.path())
    }
}

impl FileFacts {
    fn of(path: &Path) -> Self {
        let log = beside(path, "-wal");
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self {
            bytes: size(path),
            log_bytes: size(&log),
            free_bytes: free_bytes(folder),
            mode: mode(&[path, &log]),
            writable: can_write(path) && can_write(folder),
            network: network(folder),
        }
    }
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// All permission bits that one of the files has.
#[cfg(unix)]
fn mode(files: &[&Path]) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let modes = files.iter().filter_map(|file| std::fs::metadata(file).ok());
    modes
        .map(|found| found.permissions().mode() & 0o777)
        .reduce(|one, other| one | other)
}

#[cfg(not(unix))]
fn mode(_: &[&Path]) -> Option<u32> {
    None
}

#[cfg(unix)]
fn can_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn can_write(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.permissions().readonly())
}

/// The kind of the network file system that a folder is on; `None` on systems without
/// `/proc`.
fn network(folder: &Path) -> Option<String> {
    let folder = std::fs::canonicalize(folder).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let kind = file_system(&mounts, &folder)?;
    NETWORK.contains(&&*kind).then_some(kind)
}

/// The kind of the file system of a folder, by the lines of `/proc/self/mounts`.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = PathBuf::from(fields.next()?.replace("\\040", " "));
        Some((place, fields.next()?))
    });
    let holding = mounted.filter(|(place, _)| folder.starts_with(place));
    // A later mount on the same place hides the earlier one.
    let (_, kind) = holding.max_by_key(|(place, _)| place.components().count())?;
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_folder_is_that_of_the_deepest_mount_over_it() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n\
            server:/data /srv/shared\\040files nfs4 rw 0 0\n\
            tmpfs /srv tmpfs rw 0 0\n";
        let kind = |folder: &str| file_system(mounts, Path::new(folder));
        assert_eq!(kind("/srv/shared files/app").as_deref(), Some("nfs4"));
        assert_eq!(kind("/srv/shared").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/home").as_deref(), Some("ext4"));
    }
}
