//! One hash in memory that is lent to it. The crate's own functions allocate 19 MiB for
//! each hash, and the system's allocator does not return it.

use anyhow::{Context as _, anyhow};
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq as _;

use crate::random;

const SALT_BYTES: usize = 16;

/// The memory of one hash at a time.
pub(super) struct Memory {
    blocks: Vec<Block>,
    /// The blocks that are kept after use.
    kept: usize,
}

impl Memory {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            blocks: Vec::new(),
            kept,
        }
    }

    /// Runs `work` in as many blocks as `params` ask for.
    fn lend<T>(&mut self, params: &Params, work: impl FnOnce(&mut [Block]) -> T) -> T {
        let wanted = params.block_count();
        if self.blocks.len() < wanted {
            self.blocks.resize(wanted, Block::default());
        }
        let result = work(&mut self.blocks[..wanted]);
        if self.blocks.len() > self.kept {
            self.blocks.truncate(self.kept);
            self.blocks.shrink_to_fit();
        }
        result
    }
}

/// The PHC string of a new hash.
pub(super) fn hash(
    hasher: &Argon2<'_>,
    password: &str,
    memory: &mut Memory,
) -> anyhow::Result<String> {
    let salt = random::bytes::<SALT_BYTES>()?;
    let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
    compute(hasher, password, &salt, &mut out, memory)?;
    phc(hasher, &salt, &out)
}

/// Returns true if one of these passwords matches a PHC string.
pub(super) fn fits_any(
    stored: &str,
    forms: &[String],
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let damaged = "a stored password hash is damaged";
    let stored = PasswordHash::new(stored).map_err(|error| anyhow!("{damaged}: {error}"))?;
    let (Some(salt), Some(wanted)) = (&stored.salt, &stored.hash) else {
        return Err(anyhow!("{damaged}: it has no salt or no hash"));
    };
    let hasher = hasher_of(&stored).context(damaged)?;
    let mut out = vec![0; wanted.len()];
    for form in forms {
        compute(&hasher, form, salt, &mut out, memory)?;
        if bool::from(out.as_slice().ct_eq(wanted.as_bytes())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A PHC string of the usual cost that no password has.
pub(super) fn unreachable_hash(hasher: &Argon2<'_>) -> anyhow::Result<String> {
    phc(
        hasher,
        &random::bytes::<SALT_BYTES>()?,
        &random::bytes::<{ Params::DEFAULT_OUTPUT_LEN }>()?,
    )
}

fn hasher_of(stored: &PasswordHash) -> anyhow::Result<Argon2<'static>> {
    let algorithm = Algorithm::try_from(stored.algorithm.as_str())
        .map_err(|error| anyhow!("unknown algorithm: {error}"))?;
    let version = stored
        .version
        .map_or(Ok(Version::default()), Version::try_from)
        .map_err(|error| anyhow!("unknown version: {error}"))?;
    let params =
        Params::try_from(stored).map_err(|error| anyhow!("impossible parameters: {error}"))?;
    Ok(Argon2::new(algorithm, version, params))
}

fn compute(
    hasher: &Argon2<'_>,
    password: &str,
    salt: &[u8],
    out: &mut [u8],
    memory: &mut Memory,
) -> anyhow::Result<()> {
    memory
        .lend(hasher.params(), |blocks| {
            hasher.hash_password_into_with_memory(password.as_bytes(), salt, out, blocks)
        })
        .map_err(|error| anyhow!("argon2 refused: {error}"))
}

fn phc(hasher: &Argon2<'_>, salt: &[u8], out: &[u8]) -> anyhow::Result<String> {
    let failed =
        |error: &dyn std::fmt::Display| anyhow!("a password hash cannot be written: {error}");
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(hasher.params()).map_err(|error| failed(&error))?,
        salt: Some(Salt::new(salt).map_err(|error| failed(&error))?),
        hash: Some(Output::new(out).map_err(|error| failed(&error))?),
    };
    Ok(hash.to_string())
}
