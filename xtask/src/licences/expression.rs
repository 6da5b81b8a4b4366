//! SPDX licence expressions: `OR`, `AND`, `WITH`, brackets, and the old `/`.

use anyhow::{Result, bail};

/// The licence of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// An identifier, with its exception if it has one: `A WITH B`.
    Licence(String),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

impl Expression {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let spaced = text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser { words: &words };
        let expression = parser.any()?;
        match parser.words.first() {
            None => Ok(expression),
            Some(word) => bail!("`{text}` is not a licence expression: unexpected `{word}`"),
        }
    }

    /// Returns whether the licences in `allowed` satisfy this expression.
    pub(crate) fn satisfied_by(&self, allowed: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Licence(licence) => allowed(licence),
            Self::All(parts) => parts.iter().all(|part| part.satisfied_by(allowed)),
            Self::Any(parts) => parts.iter().any(|part| part.satisfied_by(allowed)),
        }
    }
}

/// `AND` binds tighter than `OR`, `WITH` tighter than both.
struct Parser<'a> {
    words: &'a [&'a str],
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Expression> {
        let mut parts = vec![self.all()?];
        while self.take("OR") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression> {
        let mut parts = vec![self.licence()?];
        while self.take("AND") {
            parts.push(self.licence()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn licence(&mut self) -> Result<Expression> {
        if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                bail!("a bracket of a licence expression is not closed");
            }
            return Ok(inner);
        }
        let mut licence = self.name()?;
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.name()?);
        }
        Ok(Expression::Licence(licence))
    }

    fn name(&mut self) -> Result<String> {
        match self.words.split_first() {
            Some((word, rest)) if !matches!(*word, "OR" | "AND" | "WITH" | "(" | ")") => {
                self.words = rest;
                Ok((*word).to_owned())
            }
            Some((word, _)) => {
                bail!("a licence expression has `{word}` where a licence is expected")
            }
            None => bail!("a licence expression ends where a licence is expected"),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

fn one_or(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        join(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(text: &str) -> Option<bool> {
        let allowed = [
            "MIT",
            "Apache-2.0",
            "Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ];
        Expression::parse(text)
            .ok()
            .map(|e| e.satisfied_by(&|licence| allowed.contains(&licence)))
    }

    #[test]
    fn one_allowed_licence_of_a_choice_is_enough() {
        assert_eq!(allows("MIT"), Some(true));
        assert_eq!(allows("GPL-3.0 OR MIT"), Some(true));
        assert_eq!(allows("GPL-3.0 OR LGPL-2.1-or-later"), Some(false));
    }

    #[test]
    fn the_old_slash_means_or() {
        assert_eq!(allows("MIT/GPL-3.0"), Some(true));
        assert_eq!(allows("GPL-3.0 / Apache-2.0"), Some(true));
    }

    #[test]
    fn every_part_of_an_and_must_be_allowed() {
        assert_eq!(allows("MIT AND Apache-2.0"), Some(true));
        assert_eq!(allows("MIT AND GPL-3.0"), Some(false));
    }

    #[test]
    fn and_binds_tighter_than_or_and_brackets_bind_tightest() {
        assert_eq!(allows("MIT OR GPL-3.0 AND LGPL-3.0"), Some(true));
        assert_eq!(allows("(MIT OR GPL-3.0) AND LGPL-3.0"), Some(false));
        assert_eq!(
            allows("(GPL-3.0 OR Apache-2.0) AND Unicode-3.0"),
            Some(true)
        );
    }

    #[test]
    fn an_exception_is_part_of_its_licence() {
        assert_eq!(allows("Apache-2.0 WITH LLVM-exception"), Some(true));
        assert_eq!(allows("MIT WITH LLVM-exception"), Some(false));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "",
            "MIT OR",
            "AND MIT",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "MIT WITH",
        ] {
            assert_eq!(allows(text), None, "{text}");
        }
    }
}
