//! Random bytes, and the tokens made of them.

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Random bytes of the system.
///
/// # Errors
///
/// If the system has no randomness.
pub(crate) fn bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system has no randomness: {error}"))?;
    Ok(bytes)
}

/// A new token of `N` random bytes. Leaked tokens are recognized by their prefix.
pub(crate) fn token<const N: usize>(prefix: &str) -> anyhow::Result<String> {
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes::<N>()?)))
}

/// The stored form of a token. A plain hash is enough, since nobody can guess that
/// many random bits, and a look-up by it takes the same time for every wrong token.
pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn tokens_have_all_their_bits_and_are_never_the_same() {
        let (one, two) = (token::<32>("tty_").unwrap(), token::<32>("tty_").unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), "tty_".len() + 43);
    }
}
