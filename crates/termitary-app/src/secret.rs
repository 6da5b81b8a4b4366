//! The installation's secret: the keys that hash and seal data in the database are
//! derived from it. All processes of one installation share it. It is not in a database
//! file; a PostgreSQL database keeps it unless the configuration gives it.

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::random;

/// The fewest characters of a secret from the configuration.
const SHORTEST: usize = 32;

/// A secret, and the keys derived from it.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl Secret {
    /// A secret from the configuration.
    ///
    /// # Errors
    ///
    /// If the text has fewer than 32 characters.
    pub fn from_text(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let length = text.chars().count();
        if length < SHORTEST {
            bail!(
                "has {length} characters: write at least {SHORTEST} random ones, such as from `openssl rand -hex 32`"
            );
        }
        Ok(Self::of(text.as_bytes()))
    }

    /// The secret in the file beside a database. A missing file is created, readable by
    /// its user only.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, or is too short.
    pub fn beside(database: &Path) -> anyhow::Result<Self> {
        let file = file_beside(database);
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => create(&file)?,
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        Self::from_text(&text).with_context(|| format!("the secret in {}", file.display()))
    }

    /// The text of a new secret.
    ///
    /// # Errors
    ///
    /// If the system has no randomness.
    pub(crate) fn new_text() -> anyhow::Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(random::bytes::<32>()?))
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// HMAC-SHA-256 of the parts. Each part is hashed with its length, so that other parts
    /// cannot give the same value.
    pub(crate) fn mac<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

impl Default for Secret {
    /// A random secret of this process alone.
    ///
    /// # Panics
    ///
    /// If the system has no randomness.
    #[expect(clippy::expect_used, reason = "nothing can be kept secret without it")]
    fn default() -> Self {
        Self::of(&random::bytes::<32>().expect("the system has randomness"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// `termitary.db.secret` beside `termitary.db`.
pub(crate) fn file_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".secret");
    name.into()
}

/// Writes a new secret, unless another process did so at the same moment; returns the
/// one in the file. The file appears with its content.
fn create(file: &Path) -> anyhow::Result<String> {
    let text = Secret::new_text()?;
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let failed = || {
        format!(
            "cannot write {}: set TERMITARY_SECRET, or let this user write there",
            file.display()
        )
    };
    let name = format!(".{}.secret.new", uuid::Uuid::now_v7());
    let draft = folder.join(name);
    let written = write_private(&draft, &text).and_then(|()| std::fs::hard_link(&draft, file));
    let _ = std::fs::remove_file(&draft);
    match written {
        Ok(()) => {
            tracing::warn!(
                file = %file.display(),
                "TERMITARY_SECRET is not set: a secret was generated; keep its file apart from copies of the database"
            );
            Ok(text)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        }
        Err(error) => Err(error).with_context(failed),
    }
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn mac(secret: &Secret) -> [u8; 32] {
        secret.mac([&b"purpose"[..]])
    }

    #[test]
    fn processes_that_start_together_share_the_generated_secret() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("t.db");
        let macs: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| mac(&Secret::beside(&database).unwrap())))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(macs.iter().all(|mac| *mac == macs[0]));
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(names, ["t.db.secret"], "no draft stays behind");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("t.db");
        Secret::beside(&database).unwrap();
        let mode = std::fs::metadata(file_beside(&database)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        let error = Secret::from_text("hunter2").unwrap_err().to_string();
        assert!(
            error.contains("7 characters") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(Secret::from_text(&"x".repeat(32)).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("t.db");
        std::fs::write(file_beside(&database), "").unwrap();
        let error = format!("{:#}", Secret::beside(&database).unwrap_err());
        assert!(error.contains("t.db.secret"), "{error}");
    }

    #[test]
    fn parts_are_not_mistaken_for_other_parts() {
        let secret = Secret::default();
        assert_ne!(
            secret.mac([&b"ab"[..], b"c"]),
            secret.mac([&b"a"[..], b"bc"])
        );
        assert_ne!(mac(&secret), mac(&Secret::default()));
        assert_eq!(format!("{secret:?}"), "Secret(***)");
    }
}
