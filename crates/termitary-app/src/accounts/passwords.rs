//! argon2id on a bounded pool: a flood of logins may wait or be refused, but
//! never takes the machine's memory or the runtime's threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, anyhow};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Hashes that run at once: one per core, each with its own memory.
const RUNNING: usize = 2;
/// Hashes that may wait for a turn; more are refused.
const WAITING: usize = 64;

/// How much work one password hash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for HashCost {
    /// The least that OWASP recommends for argon2id: 19 MiB, two passes.
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            lanes: 1,
        }
    }
}

/// Why no password was hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordsBusy {
    #[error("too many passwords are being checked")]
    Full,
    #[error("the password hash failed")]
    Failed(#[source] anyhow::Error),
}

/// Hashes and verifies passwords, two at a time.
pub(crate) struct Passwords {
    hasher: Argon2<'static>,
    running: Semaphore,
    queued: AtomicUsize,
    /// What an unknown user's password is checked against.
    dummy: Arc<str>,
}

impl Passwords {
    pub(crate) fn new(cost: HashCost) -> anyhow::Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
            .map_err(|error| anyhow!("the password cost is not possible: {error}"))?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = hash(&hasher, "nobody has this password").context("cannot hash passwords")?;
        Ok(Self {
            hasher,
            running: Semaphore::new(RUNNING),
            queued: AtomicUsize::new(0),
            dummy: dummy.into(),
        })
    }

    /// The PHC string to store.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, PasswordsBusy> {
        let hasher = self.hasher.clone();
        let password = password.to_owned();
        self.run(move || hash(&hasher, &password)).await
    }

    /// Whether the password fits. Without a hash (an unknown user) the same
    /// work is done, and the answer is no.
    pub(crate) async fn verify(
        &self,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, PasswordsBusy> {
        let known = hash.is_some();
        let hash = hash.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        let password = password.to_owned();
        let hasher = self.hasher.clone();
        let fits = self
            .run(move || {
                let hash = PasswordHash::new(&hash)
                    .map_err(|error| anyhow!("a stored hash is damaged: {error}"))?;
                Ok(hasher.verify_password(password.as_bytes(), &hash).is_ok())
            })
            .await?;
        Ok(known && fits)
    }

    /// Whether a stored hash was made with less work than new ones are.
    pub(crate) fn is_outdated(&self, stored: &str) -> bool {
        let wanted = self.hasher.params();
        PasswordHash::new(stored)
            .ok()
            .and_then(|hash| Params::try_from(&hash).ok())
            .is_none_or(|had| (had.m_cost(), had.t_cost()) < (wanted.m_cost(), wanted.t_cost()))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, PasswordsBusy> {
        let _turn = self.turn().await?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| PasswordsBusy::Failed(error.into()))?
            .map_err(PasswordsBusy::Failed)
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, PasswordsBusy> {
        let _place = Place::take(&self.queued)?;
        self.running
            .acquire()
            .await
            .map_err(|error| PasswordsBusy::Failed(error.into()))
    }
}

/// A place in the queue, given back also when the request is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicUsize) -> Result<Self, PasswordsBusy> {
        let place = Self(queued);
        if queued.fetch_add(1, Ordering::AcqRel) >= WAITING {
            return Err(PasswordsBusy::Full);
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn hash(hasher: &Argon2<'_>, password: &str) -> anyhow::Result<String> {
    let hash: PasswordHash = hasher
        .hash_password(password.as_bytes())
        .map_err(|error| anyhow!("argon2 refused: {error}"))?;
    Ok(hash.to_string())
}

/// The passwords that every guessing list begins with.
const COMMON: &[&str] = &[
    "00000000",
    "11111111",
    "123123123",
    "12341234",
    "12345678",
    "123456789",
    "1234567890",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "87654321",
    "88888888",
    "987654321",
    "aa123456",
    "abc12345",
    "abcd1234",
    "admin123",
    "administrator",
    "baseball",
    "changeme",
    "computer",
    "dragon123",
    "football",
    "google123",
    "hello123",
    "iloveyou",
    "iloveyou1",
    "letmein1",
    "letmein123",
    "liverpool",
    "login123",
    "master123",
    "michael1",
    "monkey123",
    "p@ssw0rd",
    "p@ssword",
    "pass1234",
    "passw0rd",
    "password",
    "password!",
    "password1",
    "password12",
    "password123",
    "password1234",
    "princess",
    "q1w2e3r4",
    "qazwsxedc",
    "qwer1234",
    "qwerty12",
    "qwerty123",
    "qwertyui",
    "qwertyuiop",
    "starwars",
    "sunshine",
    "superman",
    "test1234",
    "trustno1",
    "welcome1",
    "welcome123",
    "whatever",
    "zaq12wsx",
];

/// 8 to 256 characters, none of the well-known ones; no rules of composition.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
pub(crate) fn check_password(password: &str, (): &()) -> garde::Result {
    let length = password.chars().count();
    if !(8..=256).contains(&length) {
        return Err(garde::Error::new("must have 8 to 256 characters"));
    }
    if COMMON
        .binary_search(&password.to_lowercase().as_str())
        .is_ok()
    {
        return Err(garde::Error::new(
            "is one of the passwords that attackers try first",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_list_of_common_passwords_is_sorted() {
        assert!(COMMON.is_sorted());
    }

    #[tokio::test]
    async fn the_default_hash_is_argon2id_with_19_mib_and_two_passes() {
        let passwords = Passwords::new(HashCost::default()).unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            passwords
                .verify("correct horse", Some(&hash))
                .await
                .unwrap()
        );
        assert!(!passwords.verify("wrong horse", Some(&hash)).await.unwrap());
        assert!(
            !passwords
                .verify("nobody has this password", None)
                .await
                .unwrap()
        );
        assert!(!passwords.is_outdated(&hash));
    }

    #[tokio::test]
    async fn a_hash_of_lower_cost_is_outdated() {
        let cheap = Passwords::new(HashCost {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        })
        .unwrap();
        let hash = cheap.hash("correct horse").await.unwrap();
        assert!(
            Passwords::new(HashCost::default())
                .unwrap()
                .is_outdated(&hash)
        );
    }
}
