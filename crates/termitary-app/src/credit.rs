//! A credit for each of many keys: it does something so often before the next count.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most keys that are remembered.
const KEYS: usize = 10_000;

/// The credit of each key.
pub(crate) struct Credit<K>(Mutex<HashMap<K, u64>>);

impl<K> Default for Credit<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Credit<K> {
    /// Uses one up; returns false if none is left.
    pub(crate) fn take(&self, key: &K) -> bool {
        match self.lock().get_mut(key) {
            Some(credit) if *credit > 0 => {
                *credit -= 1;
                true
            }
            _ => false,
        }
    }

    /// Replaces the credit of a key.
    pub(crate) fn set(&self, key: K, credit: u64) {
        let mut credits = self.lock();
        if credits.len() >= KEYS {
            credits.clear();
        }
        credits.insert(key, credit);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, u64>> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
