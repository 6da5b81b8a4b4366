//! The rules for passwords: their form, their length, and the list of those that
//! attackers try first.

use std::collections::HashSet;
use std::sync::LazyLock;

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// More bytes than 256 characters have in any form are not looked at.
const LONGEST: usize = 8 * 1024;

/// More than 11,000, all of at least 8 characters: shorter ones are refused anyway.
static COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    include_str!("common.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect()
});

/// The form that is hashed (NFC, as RFC 8265 says): a letter with an accent is the
/// same password whichever way a keyboard composes it.
pub(super) fn normal(password: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc()
        .normalize(password)
        .into_owned()
}

/// The forms in which a stored hash may know a password, each once, the usual one
/// first. Nearly every password has one form.
pub(super) fn forms(password: &str) -> Vec<String> {
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(password);
    let mut forms = vec![normal(password)];
    for form in [password, &*decomposed] {
        if forms.iter().all(|known| known != form) {
            forms.push(form.to_owned());
        }
    }
    forms
}

/// 8 to 256 characters, none of the well-known ones; no rules of composition.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
pub(crate) fn check_password(password: &str, (): &()) -> garde::Result {
    let wrong_length = || garde::Error::new("must have 8 to 256 characters");
    if password.len() > LONGEST {
        return Err(wrong_length());
    }
    let password = normal(password);
    if !(8..=256).contains(&password.chars().count()) {
        return Err(wrong_length());
    }
    if COMMON.contains(password.to_lowercase().as_str()) {
        return Err(garde::Error::new(
            "is one of the passwords that attackers try first",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(password: &str) -> bool {
        check_password(password, &()).is_ok()
    }

    #[test]
    fn the_list_of_common_passwords_has_more_than_3_000_that_length_alone_would_allow() {
        let long = COMMON.iter().filter(|entry| entry.chars().count() >= 8);
        assert!(long.count() > 3_000);
        let lower = |entry: &&&str| entry.to_lowercase() != **entry;
        assert_eq!(COMMON.iter().find(lower), None, "it would never be found");
        for common in [
            "password",
            "Password1",
            "qwertyuiop",
            "ILOVEYOU",
            "trustno1",
            "letmein1",
        ] {
            assert!(!accepted(common), "{common}");
        }
        assert!(accepted("correct horse battery"));
    }

    #[test]
    fn a_password_is_measured_in_its_composed_form() {
        assert!(!accepted(&"e\u{301}".repeat(7)), "seven letters");
        assert!(accepted(&"e\u{301}".repeat(8)));
        assert!(
            accepted(&"\u{1100}\u{1161}\u{11a8}".repeat(256)),
            "256 letters"
        );
        assert!(!accepted(&"\u{1100}\u{1161}\u{11a8}".repeat(257)));
        assert!(!accepted(&"x".repeat(100_000)));
    }

    #[test]
    fn most_passwords_have_one_form() {
        assert_eq!(forms("correct horse").len(), 1);
        assert_eq!(forms("\u{e9}").len(), 2);
        assert_eq!(forms("e\u{301}").len(), 2);
        // A composed and a decomposed letter in one: as typed is a third form.
        assert_eq!(forms("\u{e9}e\u{301}").len(), 3);
    }
}
