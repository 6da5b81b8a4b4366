//! Seals a response with ChaCha20-Poly1305, under a key that is derived from its request:
//! a changed row does not open.

use anyhow::anyhow;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::random;

/// The seal of one request.
pub(super) struct Seal([u8; 32]);

impl Seal {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns the nonce, the encrypted text and its tag.
    pub(super) fn close(&self, mut text: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let nonce = random::bytes::<NONCE_LEN>()?;
        self.key()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| anyhow!("a response cannot be sealed"))?;
        Ok([&nonce[..], &text].concat())
    }

    /// Returns the text that [`close`](Self::close) sealed.
    pub(super) fn open(&self, mut sealed: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let damaged = || anyhow!("a kept response was changed in the database and does not open");
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        self.key()?
            .open_in_place(nonce, Aad::empty(), text)
            .map(|text| text.to_vec())
            .map_err(|_| damaged())
    }

    fn key(&self) -> anyhow::Result<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &self.0)
            .map(LessSafeKey::new)
            .map_err(|_| anyhow!("no key can be derived for a response"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_answer_opens_with_its_key_and_unchanged() {
        let seal = Seal::new([7; 32]);
        let sealed = seal.close(b"the token".to_vec()).unwrap();
        assert_eq!(seal.open(sealed.clone()).unwrap(), b"the token");
        assert!(Seal::new([8; 32]).open(sealed.clone()).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal.open(changed).is_err(), "byte {at}");
        }
        assert!(seal.open(vec![1; 5]).is_err());
        assert_ne!(seal.close(b"the token".to_vec()).unwrap(), sealed);
    }
}
