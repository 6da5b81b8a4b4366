//! The text of an error as it is stored and logged: as much as a person reads, with a note
//! of the full length if it was longer.

use std::fmt::{self, Write};

/// The most bytes of a text, without the note.
pub(crate) const LIMIT: usize = 4096;
/// The most causes of an error, as a chain may lead back to itself.
const CAUSES: usize = 32;

/// Keeps the beginning of a text that is written in parts.
#[derive(Debug, Default)]
pub(crate) struct Excerpt {
    kept: String,
    bytes: usize,
}

impl Excerpt {
    /// The text of one value.
    pub(crate) fn of(value: impl fmt::Display) -> String {
        let mut excerpt = Self::default();
        excerpt.add(value);
        excerpt.finish()
    }

    /// The text of an error and its causes, on one line.
    pub(crate) fn of_chain(error: &dyn std::error::Error) -> String {
        let mut excerpt = Self::default();
        excerpt.add(error);
        let causes = std::iter::successors(error.source(), |error| error.source());
        for cause in causes.take(CAUSES) {
            excerpt.add(": ");
            excerpt.add(cause);
        }
        excerpt.finish()
    }

    fn add(&mut self, value: impl fmt::Display) {
        if write!(self, "{value}").is_err() {
            // This sink never fails, so the value's own `Display` did.
            let _ = self.write_str("(a text that cannot be formatted)");
        }
    }

    fn finish(self) -> String {
        if self.bytes == self.kept.len() {
            return self.kept;
        }
        let Self { mut kept, bytes } = self;
        let _ = write!(kept, "… (cut here: {bytes} bytes in all)");
        kept
    }
}

impl Write for Excerpt {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // After the first cut nothing more is kept, even if it would fit.
        if self.bytes == self.kept.len() {
            let room = LIMIT - self.kept.len();
            self.kept.push_str(&part[..part.floor_char_boundary(room)]);
        }
        self.bytes = self.bytes.saturating_add(part.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_whole_and_a_long_one_is_cut_between_characters_with_its_length() {
        assert_eq!(Excerpt::of("no route to host"), "no route to host");
        let whole = "a".repeat(LIMIT);
        assert_eq!(Excerpt::of(&whole), whole);
        let long = format!("a{}", "ä".repeat(LIMIT));
        let cut = Excerpt::of(&long);
        let note = format!("… (cut here: {} bytes in all)", 1 + 2 * LIMIT);
        assert_eq!(cut.strip_suffix(&note).map(str::len), Some(LIMIT - 1));
        assert!(long.starts_with(cut.trim_end_matches(&note)));
    }

    #[test]
    fn nothing_follows_the_cut() {
        let mut excerpt = Excerpt::default();
        for part in ["a".repeat(LIMIT - 1), "ä".to_owned(), "b".to_owned()] {
            excerpt.add(part);
        }
        assert!(
            excerpt
                .finish()
                .starts_with(&format!("{}… (cut", "a".repeat(LIMIT - 1)))
        );
    }

    /// Its own cause.
    #[derive(Debug)]
    struct Circle;

    impl fmt::Display for Circle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("round")
        }
    }

    impl std::error::Error for Circle {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&Circle)
        }
    }

    struct Mute;

    impl fmt::Display for Mute {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }

    #[test]
    fn a_chain_that_leads_back_to_itself_and_a_text_that_fails_come_to_an_end() {
        assert_eq!(
            Excerpt::of_chain(&Circle).matches("round").count(),
            CAUSES + 1
        );
        assert_eq!(Excerpt::of(Mute), "(a text that cannot be formatted)");
    }
}
