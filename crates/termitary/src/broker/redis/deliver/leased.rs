//! Which entries this process holds: handed out and not settled yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::delivery::{EntryAddress, WorkerId};

#[derive(Default)]
pub(crate) struct Live(Mutex<HashMap<WorkerId, HashSet<EntryAddress>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, HashSet<EntryAddress>>> {
        // Inserts and removals leave the sets whole even on a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds these from now on; leaves out those that it held already.
    pub(crate) fn take<T>(
        &self,
        worker: &WorkerId,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> Option<&EntryAddress>,
    ) {
        let mut live = self.lock();
        let held = live.entry(worker.clone()).or_default();
        items.retain(|item| entry(item).is_some_and(|entry| held.insert(entry.clone())));
    }

    /// Leaves out those that it holds.
    pub(crate) fn without_held<T>(
        &self,
        worker: &WorkerId,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> &EntryAddress,
    ) {
        if let Some(held) = self.lock().get(worker) {
            items.retain(|item| !held.contains(entry(item)));
        }
    }

    /// Leaves out the entries that it holds, or held before they were read: an entry that it no
    /// longer holds was ended meanwhile.
    pub(crate) fn without_those<T>(
        &self,
        worker: &WorkerId,
        held_before: &HashSet<EntryAddress>,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> EntryAddress,
    ) {
        items.retain(|item| {
            let entry = entry(item);
            !held_before.contains(&entry) && !self.holds(worker, &entry)
        });
    }

    pub(crate) fn drop<'a>(&self, entries: impl Iterator<Item = (&'a WorkerId, &'a EntryAddress)>) {
        let mut live = self.lock();
        for (worker, entry) in entries {
            if let Some(held) = live.get_mut(worker) {
                held.remove(entry);
            }
        }
    }

    /// Everything that it holds now.
    pub(crate) fn held(&self, worker: &WorkerId) -> HashSet<EntryAddress> {
        self.lock().get(worker).cloned().unwrap_or_default()
    }

    pub(crate) fn holds(&self, worker: &WorkerId, entry: &EntryAddress) -> bool {
        self.lock()
            .get(worker)
            .is_some_and(|held| held.contains(entry))
    }

    /// Returns whether any worker of this process holds it.
    pub(crate) fn anyone_holds(&self, entry: &EntryAddress) -> bool {
        self.lock().values().any(|held| held.contains(entry))
    }

    pub(crate) fn forget(&self, worker: &WorkerId) {
        self.lock().remove(worker);
    }
}
