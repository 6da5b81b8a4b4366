//! The rules for passwords: their form, their length, and the passwords that attackers
//! try first.

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// The longest password that is examined: 256 characters have fewer bytes in any form.
const LONGEST: usize = 8 * 1024;

/// The number of guesses within which a password is too easy: the length of zxcvbn's
/// list of common passwords. Its patterns (keyboard rows, dates, repetitions,
/// `p4ssw0rd`) count the same way.
const EASY: u64 = 30_000;
/// The characters that zxcvbn judges: its work grows so fast with digits and signs that
/// a hundred of them take seconds, and strangers choose the password.
const JUDGED: usize = 16;

/// The form that is hashed (NFC, as in RFC 8265): a letter with an accent is the same
/// password however a keyboard composes it.
pub(super) fn normal(password: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc()
        .normalize(password)
        .into_owned()
}

/// The forms that a stored hash may be made of, each once, the usual one first. Nearly
/// every password has one form.
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

/// The longest ending of digits and signs, such as `2026!`, that makes no word a password.
const ENDING: usize = 5;
/// A word that attackers try first here, beside those of the account.
const SERVICE: &str = "termitary";

/// Checks a new password: 8 to 256 characters, and not one of the well-known ones.
/// There are no rules of composition.
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
    if is_easy(&password, &[SERVICE]) {
        return Err(garde::Error::new(
            "is one of the passwords that attackers try first",
        ));
    }
    Ok(())
}

/// The additional rule for one account: neither its address nor its name makes a
/// password, with or without a few digits and signs behind it.
pub(crate) fn check_own_password(
    password: &str,
    email: &str,
    name: &str,
) -> Result<(), &'static str> {
    let password = normal(password).to_lowercase();
    let local = email.split('@').next().unwrap_or_default();
    let own = [email, local, name].map(|text| normal(text).to_lowercase());
    let parts = own.iter().flat_map(|text| {
        let parts = text.split(|c: char| !c.is_alphanumeric());
        parts.filter(|part| part.chars().count() > 1)
    });
    let words: Vec<&str> = own.iter().map(String::as_str).chain(parts).collect();
    if own.contains(&password) || is_easy(&password, &words) {
        return Err("is made of your name or address: others guess it first");
    }
    Ok(())
}

/// Returns true if somebody who also tries these words guesses the password early. A word
/// stays one with a short ending of digits and signs.
fn is_easy(password: &str, words: &[&str]) -> bool {
    let word = password.trim_end_matches(|c: char| !c.is_alphabetic());
    let ending = password[word.len()..].chars().count();
    let whole = [password, word];
    let judged_texts = if (1..=ENDING).contains(&ending) { 2 } else { 1 };
    whole.iter().take(judged_texts).any(|text| {
        let (judged, left) = judged(text);
        // Eight further characters make up for an easy beginning.
        left < 8 && zxcvbn::zxcvbn(&judged, words).guesses() <= EASY
    })
}

/// The beginning that is judged (of a repetition, its unit), and the number of
/// characters after it.
fn judged(password: &str) -> (String, usize) {
    let letters: Vec<char> = password.chars().collect();
    let repeats = |unit: &usize| {
        letters.len().is_multiple_of(*unit)
            && letters.iter().zip(&letters[*unit..]).all(|(a, b)| a == b)
    };
    let unit = (1..=letters.len()).find(repeats).unwrap_or(0);
    let judged = unit.min(JUDGED);
    (letters[..judged].iter().collect(), unit - judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(password: &str) -> bool {
        check_password(password, &()).is_ok()
    }

    #[test]
    fn passwords_that_attackers_try_first_are_refused() {
        for common in [
            "password",
            "Password1",
            "P@ssw0rd",
            "qwertyuiop",
            "ILOVEYOU",
            "trustno1",
            "letmein1",
            "12345678",
            "aaaaaaaa",
            "football",
            "jennifer",
            "corvette",
            "passwordpassword",
            "12345678901234567890",
            "abcabcabcabcabcabcabcabc",
        ] {
            assert!(!accepted(common), "{common}");
        }
        for rare in [
            "correct horse battery",
            "a walk in the rain",
            "Wasser im Topf",
        ] {
            assert!(accepted(rare), "{rare}");
        }
    }

    #[test]
    fn no_password_makes_its_judge_work_long() {
        let signs = "4@8({[<369&#!1/|0$5+7%2";
        for n in 1..=256 {
            let text: String = signs.chars().cycle().skip(n).take(n).collect();
            let (judged, left) = judged(&text);
            assert!(judged.chars().count() <= JUDGED, "{text}");
            assert!(text.starts_with(&judged) && judged.len() + left <= n);
        }
        assert_eq!(judged(""), (String::new(), 0));
        assert_eq!(judged("ababab"), ("ab".to_owned(), 0));
        assert_eq!(judged("abababa"), ("abababa".to_owned(), 0));
        assert_eq!(judged(&format!("{}b", "a".repeat(99))).1, 84);
        assert!(accepted(&signs.repeat(11)), "in no time");
    }

    #[test]
    fn a_password_is_measured_in_its_composed_form() {
        // Different syllables, each of three letters when it is decomposed.
        let syllables = |count: u32| -> String {
            let composed = (0..count).filter_map(|n| char::from_u32(0xac01 + 28 * n));
            DecomposingNormalizerBorrowed::new_nfd()
                .normalize(&composed.collect::<String>())
                .into_owned()
        };
        assert_eq!(syllables(7).chars().count(), 21);
        assert!(!accepted(&syllables(7)));
        assert!(accepted(&syllables(8)));
        assert!(accepted(&syllables(256)));
        assert!(!accepted(&syllables(257)));
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
