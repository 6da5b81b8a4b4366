//! Case folding: the form in which texts are compared, regardless of case and of how
//! their letters are composed.
//!
//! Folding is NFKC, then full case folding, then NFKC again: `Ü` typed as one letter or
//! two, `Straße` and `STRASSE`, `ﬁ` and `fi` are the same. Accents count: `cafe` is not
//! `café`.

use std::sync::LazyLock;

use icu_normalizer::ComposingNormalizerBorrowed;
use memchr::memmem::Finder;

/// The end of the alphabets that have cases. A table contains them.
const ALPHABETS: usize = 0x2E80;
/// The end of the scripts without case after [`ALPHABETS`]: Han, Kana, Yi, Vai.
const WITHOUT_CASE: usize = 0xA640;
/// The entry of a letter that folds to several letters.
const SEVERAL: char = '\0';

static FOLDED: LazyLock<Vec<char>> = LazyLock::new(|| {
    let one = |c: char| {
        let mut letters = without_case(c);
        match (letters.next(), letters.next()) {
            (Some(letter), None) => letter,
            _ => SEVERAL,
        }
    };
    ('\0'..).take(ALPHABETS).map(one).collect()
});

/// A text to search for. The time of a search depends only on the searched text.
pub(crate) struct Needle {
    finder: Finder<'static>,
}

impl Needle {
    pub(crate) fn new(text: &str) -> Self {
        let folded = fold(text);
        Self {
            finder: Finder::new(folded.as_bytes()).into_owned(),
        }
    }

    /// Returns true if `text` contains the needle.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let found = |folded: &str| self.finder.find(folded.as_bytes()).is_some();
        if text.is_ascii() {
            found(&text.to_ascii_lowercase())
        } else {
            found(&fold(text))
        }
    }
}

/// The folded form of a text.
pub(crate) fn fold(text: &str) -> String {
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let composed = nfkc.normalize(text);
    let mut folded = String::with_capacity(composed.len());
    let table = &*FOLDED;
    for c in composed.chars() {
        let place = c as usize;
        match table.get(place) {
            Some(&SEVERAL) if c != '\0' => folded.extend(without_case(c)),
            Some(&letter) => folded.push(letter),
            None if place < WITHOUT_CASE => folded.push(c),
            None => folded.extend(without_case(c)),
        }
    }
    match nfkc.normalize(&folded) {
        std::borrow::Cow::Borrowed(_) => folded,
        std::borrow::Cow::Owned(composed) => composed,
    }
}

/// Folds one letter. Upper case and then lower case unifies letters that share a
/// capital, such as `ς` and `σ`, and turns `ß` into `ss`; lower case before that does the
/// same for `ẞ`.
fn without_case(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(text: &str, all: &[&str]) {
        for needle in all {
            assert!(Needle::new(needle).is_in(text), "{needle:?} in {text:?}");
        }
    }

    #[test]
    fn text_is_found_whatever_its_case_and_however_its_letters_are_composed() {
        finds(
            "\u{dc}ber den Wolken",
            &["\u{fc}ber", "U\u{308}BER", "u\u{308}ber D"],
        );
        finds("U\u{308}ber", &["\u{fc}ber", "\u{dc}BER"]);
        finds("un \u{c9}CLAIR", &["\u{e9}clair", "e\u{301}clair"]);
        finds("E\u{301}clair", &["\u{e9}CLAIR"]);
        finds(
            "\u{401}\u{43b}\u{43a}\u{430}",
            &[
                "\u{451}\u{43b}\u{43a}\u{430}",
                "\u{415}\u{308}\u{41b}\u{41a}\u{410}",
            ],
        );
        finds("caf\u{e9} cafe\u{301}", &["cafe\u{301} CAF\u{c9}"]);
        finds("Stra\u{df}e STRA\u{1e9e}E", &["STRASSE strasse"]);
        finds(
            "\u{39f}\u{394}\u{39f}\u{3a3}",
            &[
                "\u{3bf}\u{3b4}\u{3bf}\u{3c2}",
                "\u{3bf}\u{3b4}\u{3bf}\u{3c3}",
            ],
        );
        finds("\u{fb01}nal \u{ff21}\u{ff22}", &["final ab"]);
        finds("\u{6771}\u{4eac}\u{90fd}", &["\u{4eac}"]);
        finds("plain ASCII Text", &["ascii", "I T", "plain ascii text"]);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert!(!Needle::new("cafe").is_in("caf\u{e9}"), "accents count");
        assert!(!Needle::new("%").is_in("no pattern"));
        assert!(!Needle::new("_").is_in("no pattern"));
        assert!(!Needle::new("ab").is_in("a b"));
    }

    #[test]
    fn every_letter_is_the_same_as_its_capital_and_its_small_one() {
        for c in '\0'..='\u{1ffff}' {
            let text = c.to_string();
            let folded = fold(&text);
            assert_eq!(fold(&folded), folded, "{c:?} folds twice");
            assert_eq!(fold(&text.to_lowercase()), folded, "small {c:?}");
            assert_eq!(fold(&text.to_uppercase()), folded, "capital {c:?}");
        }
    }
}
