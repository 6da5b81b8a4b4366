//! Mail as files: complete or absent, and on the disk before it counts as sent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The disk operations that write a mail. A test cuts the power between any two.
pub(super) trait Disk {
    /// Returns true if the folder exists.
    fn has_folder(&self, folder: &Path) -> bool;
    /// Creates one folder in an existing folder.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// Writes a file that only its user can read, and syncs its content to the disk.
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames a file atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Syncs the names in the folder to the disk.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, file: &Path) -> io::Result<()>;
}

/// Writes `<id>.eml` into `folder`, which is created if it is missing. The same mail
/// sent again replaces the file.
pub(super) fn write(disk: &impl Disk, folder: &Path, id: &str, bytes: &[u8]) -> io::Result<()> {
    create(disk, folder)?;
    let half = folder.join(half_name(id));
    let whole = folder.join(format!("{id}.eml"));
    let written = disk.write(&half, bytes);
    if let Err(error) = written.and_then(|()| disk.rename(&half, &whole)) {
        // The first error counts.
        let _ = disk.remove(&half);
        return Err(error);
    }
    disk.sync_folder(folder)
}

/// A unique name for each write: the same mail may be sent twice at once.
fn half_name(id: &str) -> String {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    format!(".{id}.{}-{number}.part", std::process::id())
}

fn create(disk: &impl Disk, folder: &Path) -> io::Result<()> {
    if disk.has_folder(folder) {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    create(disk, parent)?;
    match disk.create_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    disk.sync_folder(parent)
}

/// The disk of this machine.
pub(super) struct Real;

impl Disk for Real {
    fn has_folder(&self, folder: &Path) -> bool {
        folder.is_dir()
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir(folder)
    }

    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(file)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // Other systems cannot open a folder, and write names on their own.
        if cfg!(unix) {
            File::open(folder)?.sync_all()
        } else {
            Ok(())
        }
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        std::fs::remove_file(file)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    /// The target of a name: a folder, or a file by its number.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Entry {
        Folder,
        File(usize),
    }

    /// A disk that loses everything that was not synced.
    #[derive(Clone, Default)]
    struct State {
        names: BTreeMap<PathBuf, Entry>,
        content: Vec<Vec<u8>>,
        kept_names: BTreeMap<PathBuf, Entry>,
        kept_content: BTreeMap<usize, Vec<u8>>,
    }

    #[derive(Default)]
    struct Simulated {
        state: RefCell<State>,
        /// The disk as it was after each step.
        history: RefCell<Vec<State>>,
    }

    impl Simulated {
        fn step(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.state.borrow_mut());
            self.history.borrow_mut().push(self.state.borrow().clone());
        }
    }

    impl State {
        /// The content of a file after a power cut now. With `all` every name survives,
        /// otherwise only the synced ones: a real disk may do either.
        fn left(&self, file: &Path, all: bool) -> Option<Vec<u8>> {
            let names = if all { &self.names } else { &self.kept_names };
            let there = |folder: &Path| {
                folder.as_os_str().is_empty() || names.get(folder) == Some(&Entry::Folder)
            };
            let folders = file.ancestors().skip(1).all(there);
            match names.get(file).filter(|_| folders)? {
                Entry::File(number) => {
                    Some(self.kept_content.get(number).cloned().unwrap_or_default())
                }
                Entry::Folder => None,
            }
        }
    }

    impl Disk for Simulated {
        fn has_folder(&self, folder: &Path) -> bool {
            folder == Path::new(".") || self.state.borrow().names.contains_key(folder)
        }

        fn create_folder(&self, folder: &Path) -> io::Result<()> {
            self.step(|state| {
                state.names.insert(folder.to_owned(), Entry::Folder);
            });
            Ok(())
        }

        fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
            self.step(|state| {
                let number = state.content.len();
                state.content.push(bytes.to_owned());
                state.names.insert(file.to_owned(), Entry::File(number));
            });
            self.step(|state| {
                let number = state.content.len() - 1;
                state.kept_content.insert(number, bytes.to_owned());
            });
            Ok(())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|state| {
                let entry = state.names.remove(from).unwrap();
                state.names.insert(to.to_owned(), entry);
            });
            Ok(())
        }

        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            self.step(|state| {
                let parent = |path: &Path| match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                    _ => PathBuf::from("."),
                };
                state.kept_names.retain(|path, _| parent(path) != folder);
                let here = state
                    .names
                    .iter()
                    .filter(|(path, _)| parent(path) == folder);
                let here: Vec<_> = here.map(|(path, entry)| (path.clone(), *entry)).collect();
                state.kept_names.extend(here);
            });
            Ok(())
        }

        fn remove(&self, file: &Path) -> io::Result<()> {
            self.step(|state| {
                state.names.remove(file);
            });
            Ok(())
        }
    }

    #[test]
    fn a_mail_that_was_written_outlives_a_power_cut_and_is_whole_at_any_moment() {
        let disk = Simulated::default();
        let (folder, file) = (Path::new("var/mail"), Path::new("var/mail/one.eml"));
        write(&disk, folder, "one", b"first").unwrap();
        let left = disk.state.borrow().left(file, false);
        assert_eq!(
            left.as_deref(),
            Some(&b"first"[..]),
            "once it is called sent"
        );
        let sent = disk.history.borrow().len();
        write(&disk, folder, "one", b"again").unwrap();
        let left = disk.state.borrow().left(file, false);
        assert_eq!(left.as_deref(), Some(&b"again"[..]));
        for (step, state) in disk.history.borrow().iter().enumerate() {
            for all in [false, true] {
                let left = state.left(file, all);
                let whole = matches!(left.as_deref(), Some(b"first" | b"again"));
                let not_yet = left.is_none() && step + 1 < sent;
                assert!(whole || not_yet, "cut at step {step}: {left:?}");
            }
        }
    }

    #[test]
    fn a_mail_can_be_read_by_its_user_alone_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        for text in [&b"first"[..], b"again"] {
            write(&Real, &folder, "one", text).unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["one.eml"]);
        assert_eq!(std::fs::read(folder.join("one.eml")).unwrap(), b"again");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(folder.join("one.eml"))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
    }

    /// A disk on which another writer of the same mail comes in between.
    struct Shared<'a>(RefCell<Option<&'a Path>>);

    impl Disk for Shared<'_> {
        fn has_folder(&self, folder: &Path) -> bool {
            Real.has_folder(folder)
        }

        fn create_folder(&self, folder: &Path) -> io::Result<()> {
            Real.create_folder(folder)
        }

        fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
            Real.write(file, bytes)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            if let Some(folder) = self.0.take() {
                write(&Real, folder, "one", b"by another")?;
            }
            Real.rename(from, to)
        }

        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            Real.sync_folder(folder)
        }

        fn remove(&self, file: &Path) -> io::Result<()> {
            Real.remove(file)
        }
    }

    #[test]
    fn two_writers_of_one_mail_take_nothing_from_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Shared(RefCell::new(Some(dir.path())));
        write(&disk, dir.path(), "one", b"first").unwrap();
        let written = std::fs::read(dir.path().join("one.eml")).unwrap();
        assert_eq!(written, b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_mail_that_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("one.eml")).unwrap();
        assert!(write(&Real, dir.path(), "one", b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
