//! `.env` in the working folder, read before any thread starts.

use std::io::ErrorKind;

use super::Mistake;

/// Adds the variables of `.env` to the environment, where the file is there.
/// The real environment wins.
///
/// Only for the first lines of `main`: changing the environment beside other
/// threads is not safe.
pub fn load() -> Result<(), Mistake> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(dotenvy::Error::Io(error)) => Err(Mistake::new(format!("cannot read .env: {error}"))),
        // The message of the crate shows the line, which may hold a password.
        Err(dotenvy::Error::LineParse(line, _)) => Err(Mistake::new(format!(
            ".env, line {}: not NAME=value; put values with spaces in double quotes",
            number_of(&line)
        ))),
        Err(_) => Err(Mistake::new(
            ".env cannot be read: write one NAME=value per line",
        )),
    }
}

fn number_of(line: &str) -> String {
    let text = std::fs::read_to_string(".env").unwrap_or_default();
    let first = line.lines().next().unwrap_or_default().trim();
    text.lines()
        .position(|candidate| candidate.trim() == first)
        .map_or_else(|| "somewhere".to_owned(), |index| (index + 1).to_string())
}
