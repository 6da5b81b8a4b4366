//! The entries that the workers of this process hold: leased and not settled yet.

use std::collections::{HashMap, HashSet};

use crate::delivery::{EntryAddress, WorkerId};
use crate::lock::Mutex;

#[derive(Default)]
pub(crate) struct LeasedEntries(Mutex<HashMap<WorkerId, HashSet<EntryAddress>>>);

impl LeasedEntries {
    /// Adds the entries of these items; removes the items whose entry it had already.
    pub(crate) fn take<T>(
        &self,
        worker: &WorkerId,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> Option<&EntryAddress>,
    ) {
        let mut leased = self.0.lock();
        let held = leased.entry(worker.clone()).or_default();
        items.retain(|item| entry(item).is_some_and(|entry| held.insert(entry.clone())));
    }

    /// Removes the items that the worker holds.
    pub(crate) fn without_held<T>(
        &self,
        worker: &WorkerId,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> &EntryAddress,
    ) {
        if let Some(held) = self.0.lock().get(worker) {
            items.retain(|item| !held.contains(entry(item)));
        }
    }

    /// Removes the items that the worker holds, or held before they were read: those were
    /// settled in between.
    pub(crate) fn without_settled<T>(
        &self,
        worker: &WorkerId,
        held_before: &HashSet<EntryAddress>,
        items: &mut Vec<T>,
        entry: impl Fn(&T) -> EntryAddress,
    ) {
        let leased = self.0.lock();
        let held = leased.get(worker);
        items.retain(|item| {
            let entry = entry(item);
            !held_before.contains(&entry) && !held.is_some_and(|held| held.contains(&entry))
        });
    }

    pub(crate) fn release<'a>(
        &self,
        entries: impl Iterator<Item = (&'a WorkerId, &'a EntryAddress)>,
    ) {
        let mut leased = self.0.lock();
        for (worker, entry) in entries {
            if let Some(held) = leased.get_mut(worker) {
                held.remove(entry);
            }
        }
    }

    /// Every entry that the worker holds now.
    pub(crate) fn of(&self, worker: &WorkerId) -> HashSet<EntryAddress> {
        self.0.lock().get(worker).cloned().unwrap_or_default()
    }

    /// Returns whether any worker of this process holds the entry.
    pub(crate) fn has(&self, entry: &EntryAddress) -> bool {
        self.0.lock().values().any(|held| held.contains(entry))
    }

    pub(crate) fn remove_worker(&self, worker: &WorkerId) {
        self.0.lock().remove(worker);
    }
}
