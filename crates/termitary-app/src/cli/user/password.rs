//! Passwords on the command line: generated, from stdin, or typed. Never an argument,
//! which other users could read.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::config::Mistake;
use crate::random;

/// Characters that are not easily confused; 32 of them, so that each random byte picks
/// one evenly.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 100 bits.
const GENERATED_LENGTH: usize = 20;

/// Asks twice on the terminal; without one, reads stdin.
pub(super) fn asked() -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return from_stdin();
    }
    let _quiet = Quiet::begin();
    let first = prompt("New password: ")?;
    if first != prompt("Repeat it: ")? {
        return Err(Mistake::new("the two passwords are not the same").into());
    }
    Ok(first)
}

fn prompt(words: &str) -> anyhow::Result<String> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{words}")?;
    stderr.flush()?;
    let line = line()?;
    // The line break that was typed is not shown either.
    writeln!(stderr)?;
    Ok(line)
}

/// Hides typed characters until dropped.
struct Quiet;

impl Quiet {
    fn begin() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        stty("echo");
    }
}

/// Runs `stty`. Without it, typed characters stay visible.
fn stty(mode: &str) {
    let _ = Command::new("stty")
        .arg(mode)
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .status();
}

/// The first line of stdin.
pub(super) fn from_stdin() -> anyhow::Result<String> {
    let password = line()?;
    if password.is_empty() {
        return Err(Mistake::new(
            "there is no password on stdin: write it on the first line (--password-stdin)",
        )
        .into());
    }
    Ok(password)
}

fn line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the password from stdin")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A new random password.
pub(super) fn generated() -> anyhow::Result<String> {
    let bytes = random::bytes::<GENERATED_LENGTH>()?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn generated_passwords_are_long_and_never_the_same() {
        let (one, two) = (generated().unwrap(), generated().unwrap());
        assert_eq!(one.len(), 20);
        assert_ne!(one, two);
    }
}
