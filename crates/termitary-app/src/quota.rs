//! A limit on concurrent use: so much in all, and so much for each key. A share is
//! free again when it is dropped.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The limit; a handle, cheap to clone. The shares of one key have a `T` in common.
pub(crate) struct Quota<K, T = ()>(Arc<Inner<K, T>>);

struct Inner<K, T> {
    most: u64,
    most_per_key: u64,
    used: Mutex<Used<K, T>>,
}

struct Used<K, T> {
    total: u64,
    by_key: HashMap<K, (u64, T)>,
}

/// The limit that leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Total,
    Key,
}

/// A used share.
pub(crate) struct Share<K: Hash + Eq, T = ()> {
    quota: Quota<K, T>,
    key: K,
    amount: u64,
    pub(crate) common: T,
}

impl<K: Hash + Eq + Clone, T: Default + Clone> Quota<K, T> {
    pub(crate) fn new(most: u64, most_per_key: u64) -> Self {
        Self(Arc::new(Inner {
            most,
            most_per_key,
            used: Mutex::new(Used {
                total: 0,
                by_key: HashMap::new(),
            }),
        }))
    }

    /// Takes a share, if both limits leave room for it.
    pub(crate) fn take(&self, key: K, amount: u64) -> Result<Share<K, T>, Full> {
        let mut used = self.lock();
        if used.total.saturating_add(amount) > self.0.most {
            return Err(Full::Total);
        }
        let common = match used.by_key.get_mut(&key) {
            Some((held, _)) if held.saturating_add(amount) > self.0.most_per_key => {
                return Err(Full::Key);
            }
            Some((held, common)) => {
                *held += amount;
                common.clone()
            }
            None if amount > self.0.most_per_key => return Err(Full::Key),
            None => {
                let common = T::default();
                used.by_key.insert(key.clone(), (amount, common.clone()));
                common
            }
        };
        used.total += amount;
        Ok(Share {
            quota: self.clone(),
            key,
            amount,
            common,
        })
    }
}

impl<K, T> Quota<K, T> {
    fn lock(&self) -> MutexGuard<'_, Used<K, T>> {
        // No change can panic halfway.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Clone for Quota<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq, T> Drop for Share<K, T> {
    fn drop(&mut self) {
        let mut used = self.quota.lock();
        used.total -= self.amount;
        if let Some((held, _)) = used.by_key.get_mut(&self.key) {
            *held -= self.amount;
            if *held == 0 {
                used.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_few_shares_and_all_together_have_some_more() {
        let quota = Quota::<u32>::new(16, 4);
        let mine: Vec<_> = (0..4).map(|_| quota.take(0, 1).unwrap()).collect();
        assert_eq!(quota.take(0, 1).err(), Some(Full::Key));
        let others: Vec<_> = (4..16).map(|key| quota.take(key, 1).unwrap()).collect();
        assert_eq!(quota.take(99, 1).err(), Some(Full::Total));
        drop(others);
        assert_eq!(quota.take(0, 1).err(), Some(Full::Key));
        drop(mine);
        assert!(quota.take(0, 4).is_ok());
        let used = quota.lock();
        assert!(used.by_key.is_empty() && used.total == 0, "nothing stays");
    }

    #[test]
    fn the_shares_of_one_key_have_something_in_common() {
        let quota = Quota::<u32, Arc<()>>::new(10, 10);
        let (one, two) = (quota.take(1, 1).unwrap(), quota.take(1, 1).unwrap());
        assert!(Arc::ptr_eq(&one.common, &two.common));
        let other = quota.take(2, 1).unwrap();
        assert!(!Arc::ptr_eq(&one.common, &other.common));
    }
}
