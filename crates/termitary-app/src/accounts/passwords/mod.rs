//! Passwords: the rules for new ones, and argon2id with at most two hashes at once. A
//! flood of logins waits or is refused, but cannot take the machine's memory or the
//! runtime's threads.

mod argon;
mod hashing;
mod rules;

use anyhow::anyhow;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};

use hashing::{Hashing, Refused};
pub(crate) use rules::{check_own_password, check_password};

use crate::settings::HashCost;

/// A password that was not hashed.
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
    hashing: Hashing,
    /// The hash that an unknown user's password is checked against. No password has it.
    dummy: String,
}

impl Passwords {
    pub(crate) fn new(cost: HashCost) -> anyhow::Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
            .map_err(|error| anyhow!("the password cost is not possible: {error}"))?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = argon::unreachable_hash(&hasher)?;
        Ok(Self {
            hashing: Hashing::new(hasher.params().block_count()),
            hasher,
            dummy,
        })
    }

    /// Hashes a password; returns the PHC string to store.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, PasswordsBusy> {
        let hasher = self.hasher.clone();
        let password = rules::normal(password);
        self.hashing
            .run(move |memory| argon::hash(&hasher, &password, memory))
            .await
            .map_err(PasswordsBusy::from)
    }

    /// Compares the password with a hash: in its composed form (NFC), as it was typed,
    /// and in its decomposed form, since older hashes were made of either. Without a
    /// hash (an unknown user) it does the same work and returns `false`.
    pub(crate) async fn verify(
        &self,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, PasswordsBusy> {
        let known = hash.is_some();
        let hash = hash.unwrap_or(&self.dummy).to_owned();
        let forms = rules::forms(password);
        let fits = self
            .hashing
            .run(move |memory| argon::fits_any(&hash, &forms, memory))
            .await?;
        Ok(known && fits)
    }

    /// Returns true if a stored hash cost less work than new hashes cost.
    pub(crate) fn is_outdated(&self, stored: &str) -> bool {
        let wanted = self.hasher.params();
        PasswordHash::new(stored)
            .ok()
            .and_then(|hash| Params::try_from(&hash).ok())
            .is_none_or(|had| (had.m_cost(), had.t_cost()) < (wanted.m_cost(), wanted.t_cost()))
    }
}

impl From<Refused> for PasswordsBusy {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::Failed(error) => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const CHEAP: HashCost = HashCost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    #[tokio::test]
    async fn the_default_hash_is_argon2id_with_19_mib_and_two_passes() {
        let passwords = Passwords::new(HashCost::default()).unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let verify = async |password, hash| passwords.verify(password, hash).await.unwrap();
        assert!(verify("correct horse", Some(hash.as_str())).await);
        assert!(!verify("wrong horse", Some(hash.as_str())).await);
        assert!(!verify("nobody has this password", None).await);
        assert!(!passwords.is_outdated(&hash));
    }

    #[tokio::test]
    async fn a_hash_of_lower_cost_is_outdated_and_still_verified() {
        let cheap = Passwords::new(CHEAP).unwrap();
        let hash = cheap.hash("correct horse").await.unwrap();
        let dear = Passwords::new(HashCost::default()).unwrap();
        assert!(dear.is_outdated(&hash));
        assert!(dear.verify("correct horse", Some(&hash)).await.unwrap());
        // And one of higher cost, for which the threads' memory is too small.
        let hash = dear.hash("correct horse").await.unwrap();
        assert!(cheap.verify("correct horse", Some(&hash)).await.unwrap());
        assert!(!cheap.verify("wrong horse", Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_of_the_library_is_verified_and_ours_by_the_library() {
        use argon2::{PasswordHasher as _, PasswordVerifier as _};
        let passwords = Passwords::new(CHEAP).unwrap();
        let theirs = passwords.hasher.hash_password(b"correct horse").unwrap();
        let theirs = theirs.to_string();
        assert!(
            passwords
                .verify("correct horse", Some(&theirs))
                .await
                .unwrap()
        );
        let ours = passwords.hash("correct horse").await.unwrap();
        let verified = |password: &[u8]| passwords.hasher.verify_password(password, ours.as_str());
        assert!(verified(b"correct horse").is_ok());
        assert!(verified(b"wrong horse").is_err());
    }

    #[tokio::test]
    async fn a_password_fits_however_its_letters_are_composed() {
        use argon2::PasswordHasher as _;
        let (composed, decomposed) = ("caf\u{e9} \u{fc}ber", "cafe\u{301} u\u{308}ber");
        let passwords = Passwords::new(CHEAP).unwrap();
        let new = passwords.hash(decomposed).await.unwrap();
        // As an earlier version stored them: as they were typed.
        let old = |typed: &str| {
            let hash = passwords.hasher.hash_password(typed.as_bytes()).unwrap();
            hash.to_string()
        };
        for stored in [new, old(composed), old(decomposed)] {
            for typed in [composed, decomposed] {
                let fits = passwords.verify(typed, Some(&stored)).await.unwrap();
                assert!(fits, "{typed:?}");
            }
            assert!(!passwords.verify("cafe uber", Some(&stored)).await.unwrap());
        }
    }
}
