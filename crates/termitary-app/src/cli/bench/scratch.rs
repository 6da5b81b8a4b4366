//! A folder of the benchmark's own, beside the configured database: the same
//! disk, and none of the user's files. It goes with the process; what a killed
//! one left behind, the next one removes.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use uuid::Uuid;

const NAME: &str = ".termitary-bench-";
/// Held as long as its process lives: the system lets go of it for the dead.
const LOCK: &str = "lock";
/// A folder into which somebody still writes is removed at a later try.
const TRIES: u32 = 50;
const REST: Duration = Duration::from_millis(20);

/// Removed when dropped.
pub(super) struct Scratch {
    folder: PathBuf,
    id: String,
    _lock: File,
}

impl Scratch {
    /// A new folder in `parent`.
    pub(super) fn create(parent: &Path) -> anyhow::Result<Self> {
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
            // Another benchmark that cleans up may take it for a leftover before
            // it is locked: then it has that one, and this one takes another.
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

    /// Removes what killed benchmarks left in `parent`; answers how many.
    pub(super) fn clear_leftovers(parent: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(parent) else {
            return 0;
        };
        let leftovers = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        leftovers.filter(|entry| clear(&entry.path())).count()
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Tells this run from every other, in names.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match std::fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => std::thread::sleep(REST),
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
        // Killed before it had a lock. One that is not empty stays.
        None if !folder.join(LOCK).exists() => std::fs::remove_dir(folder).is_ok(),
        None => false,
    }
}

/// The folder's lock, where nobody else has it.
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
