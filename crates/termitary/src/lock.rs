//! A mutex and a read-write lock that ignore poison.
//!
//! The standard locks refuse to open after a panic of a thread that held them. Every
//! change made under a lock of this crate is complete before anything can panic, so the
//! data behind it is valid after a panic too.

use std::sync::{MutexGuard, PoisonError};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// [`std::sync::Mutex`] without poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`std::sync::RwLock`] without poison.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_opens_after_a_panic_of_its_holder() {
        let (mutex, lock) = (Mutex::new(1), RwLock::<i32>::default());
        std::thread::scope(|threads| {
            let holder = threads.spawn(|| {
                let _held = (mutex.lock(), lock.write());
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(holder.join().is_err());
        });
        *mutex.lock() += 1;
        assert_eq!((*mutex.lock(), *lock.read()), (2, 0));
    }
}
