//! The URL of a database.

use std::path::PathBuf;

use crate::error::Error;

/// The file that a `sqlite:` URL names.
pub(crate) fn path_of(url: &str) -> Result<PathBuf, Error> {
    let rest = url
        .strip_prefix("sqlite://")
        .or_else(|| url.strip_prefix("sqlite:"))
        .ok_or_else(|| {
            let scheme = url.split(':').next().unwrap_or_default();
            Error::invalid(format!(
                "the database URL begins with `{scheme}:`, but this version opens `sqlite://path/to/file.db` only"
            ))
        })?;
    let path = rest.split('?').next().unwrap_or_default();
    if path.is_empty() || path.contains(":memory:") {
        return Err(Error::invalid(
            "the database URL names no file: write `sqlite://path/to/file.db` (a database in memory would lose every event)",
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_or_says_what_is_wrong() {
        let path = |url| path_of(url).map(|path| path.display().to_string());
        assert_eq!(
            path("sqlite://termitary.db").ok().as_deref(),
            Some("termitary.db")
        );
        assert_eq!(
            path("sqlite:///var/lib/t.db?mode=rwc").ok().as_deref(),
            Some("/var/lib/t.db")
        );
        assert!(path("postgres://u:secret@h/db").is_err_and(|e| !e.to_string().contains("secret")));
        assert!(path("sqlite::memory:").is_err_and(|e| e.is_invalid()));
    }
}
