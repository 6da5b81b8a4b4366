//! Which entries this process holds: handed out and not settled yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::broker::{Entry, WorkerId};

#[derive(Default)]
pub(super) struct Live(Mutex<HashMap<WorkerId, HashSet<Entry>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, HashSet<Entry>>> {
        // Inserts and removals leave the sets whole even on a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was not held before.
    pub(super) fn take(&self, worker: &WorkerId, entry: &Entry) -> bool {
        self.lock()
            .entry(worker.clone())
            .or_default()
            .insert(entry.clone())
    }

    pub(super) fn drop<'a>(&self, entries: impl Iterator<Item = (&'a WorkerId, &'a Entry)>) {
        let mut live = self.lock();
        for (worker, entry) in entries {
            if let Some(held) = live.get_mut(worker) {
                held.remove(entry);
            }
        }
    }

    pub(super) fn holds(&self, worker: &WorkerId, entry: &Entry) -> bool {
        self.lock()
            .get(worker)
            .is_some_and(|held| held.contains(entry))
    }

    /// Whether any worker of this process holds it.
    pub(super) fn anyone_holds(&self, entry: &Entry) -> bool {
        self.lock().values().any(|held| held.contains(entry))
    }

    pub(super) fn forget(&self, worker: &WorkerId) {
        self.lock().remove(worker);
    }
}
