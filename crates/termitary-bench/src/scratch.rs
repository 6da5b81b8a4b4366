//! A scratch folder beside the configured database: the same disk, and none of the
//! user's files. It is removed at the end; a folder that a killed run left behind is
//! removed by the next run.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use uuid::Uuid;

const NAME: &str = ".termitary-bench-";
/// Locked while its process lives: the system releases the lock of a dead one.
const LOCK: &str = "lock";
/// Removing a folder fails while a process still writes into it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Removed when dropped.
pub(crate) struct Scratch {
    folder: PathBuf,
    id: String,
    _lock: File,
}

impl Scratch {
    /// Creates a folder in `parent`.
    pub(crate) fn create(parent: &Path) -> anyhow::Result<Self> {
        let cannot = || {
            format!(
                "cannot make a scratch folder in {}: the benchmark works beside the configured database (DATABASE_URL); its folder must exist and be writable",
                parent.display()
            )
        };
        for _ in 0..TRIES {
            let id = Uuid::now_v7().simple().to_string();
            let folder = parent.join(format!("{NAME}{id}"));
            std::fs::create_dir(&folder).with_context(cannot)?;
            // A benchmark that cleans up may take the folder for a leftover before it
            // is locked: then this run creates another.
            if let Some(lock) = locked(&folder, true)
                && folder.join(LOCK).exists()
            {
                return Ok(Self {
                    folder,
                    id,
                    _lock: lock,
                });
            }
        }
        Err(anyhow::anyhow!(cannot()))
    }

    /// Removes the folders of killed benchmarks in `parent`; returns their number.
    pub(crate) fn clear_leftovers(parent: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(parent) else {
            return 0;
        };
        let leftovers = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        leftovers.filter(|entry| clear(&entry.path())).count()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// The unique id of this run.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match std::fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => std::thread::sleep(PAUSE),
                _ => return,
            }
        }
        tracing::warn!(
            "{} is left behind: the next benchmark removes it",
            self.folder.display()
        );
    }
}

/// Removes a folder whose process is gone.
fn clear(folder: &Path) -> bool {
    match locked(folder, false) {
        Some(_lock) => std::fs::remove_dir_all(folder).is_ok(),
        // The process died before it took the lock. A folder with content stays.
        None if !folder.join(LOCK).exists() => std::fs::remove_dir(folder).is_ok(),
        None => false,
    }
}

/// Takes the folder's lock, unless another process holds it.
fn locked(folder: &Path, create: bool) -> Option<File> {
    let mut options = File::options();
    let file = options
        .write(true)
        .create(create)
        .truncate(false)
        .open(folder.join(LOCK))
        .ok()?;
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_owner_and_takes_nothing_else_along() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("termitary.db"), "mine").unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        std::fs::write(scratch.path().join("bench.db"), "").unwrap();
        drop(scratch);
        let left: Vec<_> = std::fs::read_dir(parent.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn leftovers_of_the_dead_are_removed_and_the_living_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::create(parent.path()).unwrap();
        for (name, locked) in [("a", true), ("b", false)] {
            let dead = parent.path().join(format!("{NAME}{name}"));
            std::fs::create_dir(&dead).unwrap();
            if locked {
                std::fs::write(dead.join(LOCK), "").unwrap();
                std::fs::write(dead.join("1.db"), "much").unwrap();
            }
        }
        assert_eq!(Scratch::clear_leftovers(parent.path()), 2);
        assert!(living.path().exists());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Scratch::create(Path::new("/nowhere/at/all")).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
