//! Session tokens: 256 random bits, of which only a hash is stored.

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// What a leaked token is recognized by.
const PREFIX: &str = "tty_";

/// A new token, for its owner's eyes only.
pub(super) fn new() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system has no randomness: {error}"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is stored. A plain hash is enough: nobody can guess 256 bits. Looking
/// up by it takes the same time however much of a wrong token is right.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    #[test]
    fn tokens_have_256_bits_and_are_never_the_same() {
        let (one, two) = (super::new().unwrap(), super::new().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), super::PREFIX.len() + 43);
    }
}
