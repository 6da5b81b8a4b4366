//! One source file: its imports and its SQL, without comments and without tests.

/// A file as the rules see it.
pub(super) struct Source {
    /// The code: comments are gone, and texts are empty.
    code: Vec<char>,
    /// The texts of the code outside of tests.
    pub(super) texts: Vec<String>,
    /// The modules that are declared for tests only.
    pub(super) test_modules: Vec<String>,
}

impl Source {
    pub(super) fn read(text: &str) -> Self {
        let (mut code, texts) = split(text);
        let test_modules = blank_tests(&mut code);
        let texts = texts
            .into_iter()
            .filter(|(at, _)| code[*at] == '"')
            .map(|(_, text)| text)
            .collect();
        Self {
            code,
            texts,
            test_modules,
        }
    }

    /// Every path of the crate that the file names, from the root of the crate;
    /// `module` is the file's own path.
    pub(super) fn paths(&self, module: &[String]) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        let mut modules = Modules::new(module);
        let mut at = 0;
        while at < self.code.len() {
            modules.pass(&self.code, at);
            let before = at.checked_sub(1).map(|before| self.code[before]);
            let Some(word) = word(&self.code, at).filter(|_| !before.is_some_and(is_word)) else {
                at += 1;
                continue;
            };
            at += word.len();
            let start = match &*word {
                "crate" => Vec::new(),
                "super" => modules.parent(),
                _ => continue,
            };
            if let Some(next) = after_colons(&self.code, at) {
                at = tree(&self.code, next, &start, &mut found);
            }
        }
        found
    }

    /// Returns whether the code names this item.
    #[cfg(test)]
    pub(super) fn names(&self, item: &str) -> bool {
        let code: String = self.code.iter().collect();
        code.split(|c| !is_word(c)).any(|word| word == item)
    }

    /// The items that the file re-exports from its sibling modules.
    pub(super) fn exports(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        let export: Vec<char> = "pub use ".chars().collect();
        for at in 0..self.code.len() {
            if self.code[at..].starts_with(&export) {
                tree(&self.code, at + export.len(), &[], &mut found);
            }
        }
        found.retain(|path| path.first().is_some_and(|first| first != "crate"));
        found
    }
}

/// The inline modules that are open.
struct Modules {
    path: Vec<String>,
    depth: usize,
    opened: Vec<usize>,
}

impl Modules {
    fn new(file: &[String]) -> Self {
        Self {
            path: file.to_vec(),
            depth: 0,
            opened: Vec::new(),
        }
    }

    fn pass(&mut self, code: &[char], at: usize) {
        match code[at] {
            '{' => {
                self.depth += 1;
                let head: String = code[..at].iter().rev().take(60).collect();
                let head: String = head.chars().rev().collect();
                let mut words = head.split_whitespace().rev();
                if let (Some(name), Some("mod")) = (words.next(), words.next()) {
                    self.path.push(name.to_owned());
                    self.opened.push(self.depth);
                }
            }
            '}' => {
                if self.opened.last() == Some(&self.depth) {
                    self.opened.pop();
                    self.path.pop();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn parent(&self) -> Vec<String> {
        self.path
            .split_last()
            .map_or(Vec::new(), |it| it.1.to_vec())
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(code: &[char], at: usize) -> Option<String> {
    let word: String = code[at..].iter().take_while(|c| is_word(**c)).collect();
    (!word.is_empty()).then_some(word)
}

fn skip_spaces(code: &[char], mut at: usize) -> usize {
    while code.get(at).is_some_and(|c| c.is_whitespace()) {
        at += 1;
    }
    at
}

fn after_colons(code: &[char], at: usize) -> Option<usize> {
    let at = skip_spaces(code, at);
    (code.get(at..at + 2)? == [':', ':']).then(|| skip_spaces(code, at + 2))
}

/// Reads a name or a list of names after `start::`; returns the position after it.
fn tree(code: &[char], at: usize, start: &[String], found: &mut Vec<Vec<String>>) -> usize {
    if code.get(at) == Some(&'{') {
        let mut at = skip_spaces(code, at + 1);
        while code.get(at).is_some_and(|c| *c != '}') {
            at = tree(code, at, start, found);
            // `as` and a name.
            while code.get(at).is_some_and(|c| !",}".contains(*c)) {
                at += 1;
            }
            if code.get(at) == Some(&',') {
                at = skip_spaces(code, at + 1);
            }
        }
        return at + 1;
    }
    let Some(name) = word(code, at) else {
        found.push(start.to_vec());
        return at + 1;
    };
    let at = at + name.len();
    let mut path = start.to_vec();
    match &*name {
        "super" => drop(path.pop()),
        "self" => {}
        _ => path.push(name),
    }
    if let Some(next) = after_colons(code, at)
        && code
            .get(next)
            .is_some_and(|c| is_word(*c) || *c == '{' || *c == '*')
    {
        return tree(code, next, &path, found);
    }
    found.push(path);
    at
}

/// Splits a file into its code, where each text is `""`, and its texts with their positions.
fn split(text: &str) -> (Vec<char>, Vec<(usize, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut texts) = (Vec::with_capacity(chars.len()), Vec::new());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        if rest.starts_with(&['/', '/']) {
            at += rest.iter().take_while(|c| **c != '\n').count();
        } else if rest.starts_with(&['/', '*']) {
            at += block(rest);
        } else if let Some((taken, inner)) = quoted(rest, code.last().copied()) {
            texts.push((code.len(), inner));
            code.extend(['"', '"']);
            at += taken;
        } else if let Some(taken) = character(rest) {
            code.push(' ');
            at += taken;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    (code, texts)
}

/// The length of a block comment.
fn block(rest: &[char]) -> usize {
    let ends = |at: &usize| rest[..*at].ends_with(&['*', '/']);
    (4..=rest.len()).find(ends).unwrap_or(rest.len())
}

/// The length of a text literal at the beginning, and its content.
fn quoted(rest: &[char], before: Option<char>) -> Option<(usize, String)> {
    let raw = rest[0] == 'r' && !before.is_some_and(|c| is_word(c) && c != 'b');
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if raw && rest.get(1 + hashes) == Some(&'"') {
        let mut end = vec!['"'];
        end.extend(vec!['#'; hashes]);
        let from = hashes + 2;
        let length = (from..rest.len()).find(|at| rest[*at..].starts_with(&end));
        let to = length.unwrap_or(rest.len());
        return Some((to + end.len(), rest[from..to].iter().collect()));
    }
    if rest[0] != '"' {
        return None;
    }
    let mut at = 1;
    while rest.get(at).is_some_and(|c| *c != '"') {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    let to = at.min(rest.len());
    Some((to + 1, rest[1..to].iter().collect()))
}

/// The length of a character in quotes; a lifetime is none.
fn character(rest: &[char]) -> Option<usize> {
    if rest[0] != '\'' {
        return None;
    }
    match rest.get(1)? {
        '\\' => Some(rest[3..].iter().position(|c| *c == '\'')? + 4),
        _ => (rest.get(2) == Some(&'\'')).then_some(3),
    }
}

/// Blanks every item that is built for tests only; returns the names of such modules in files of
/// their own.
fn blank_tests(code: &mut [char]) -> Vec<String> {
    let mut modules = Vec::new();
    let mut at = 0;
    while at < code.len() {
        if !code[at..].starts_with(&['#', '[']) {
            at += 1;
            continue;
        }
        let end = at + closing(&code[at + 1..]) + 2;
        if is_for_tests(&code[at..end]) {
            let behind = item_end(code, end);
            let item: String = code[end..behind].iter().collect();
            if let Some(name) = item.trim_end_matches(';').rsplit_once("mod ")
                && item.ends_with(';')
            {
                modules.push(name.1.trim().to_owned());
            }
            code[at..behind].fill(' ');
            at = behind;
        } else {
            at = end;
        }
    }
    modules
}

fn is_for_tests(attribute: &[char]) -> bool {
    let text: String = attribute.iter().filter(|c| !c.is_whitespace()).collect();
    text == "#[test]"
        || text.starts_with("#[tokio::test")
        || text.starts_with("#[cfg(test)")
        || text.starts_with("#[cfg(doctest)")
        || text.starts_with("#[cfg(all(test,")
}

/// The position of the bracket that closes the first one.
fn closing(code: &[char]) -> usize {
    let mut depth = 0;
    for (at, c) in code.iter().enumerate() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

/// The position after the item that begins here.
fn item_end(code: &[char], mut at: usize) -> usize {
    while at < code.len() {
        match code[at] {
            ';' | ',' => return at + 1,
            '{' => return at + closing(&code[at..]) + 1,
            '(' | '[' => at += closing(&code[at..]) + 1,
            // The end of the enclosing block.
            '}' => return at,
            _ => at += 1,
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, module: &str) -> Vec<String> {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        let found = Source::read(text).paths(&module);
        found.into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn every_form_of_an_import_is_found() {
        let text = r##"
            use crate::a::{self, b::{C, D as E}, F};
            use super::g::{h, super::i};
            // use crate::comment; 
            const TEXT: &str = r#"crate::text"#;
            fn f<'a>(x: &'a crate::k::L) { super::super::m::n('"'); crate::o!(); }
            mod inner { use super::p; }
            #[cfg(all(test, feature = "x"))]
            mod tests { use crate::no; }
            #[cfg(test)]
            use crate::neither;
        "##;
        let expected = [
            "a", "a::b::C", "a::b::D", "a::F", "q::g::h", "q::i", "k::L", "m::n", "o", "q::r::p",
        ];
        assert_eq!(paths(text, "q::r"), expected);
    }

    #[test]
    fn modules_and_texts_of_tests_are_known_as_such() {
        let text = r#"
            const SQL: &str = "SELECT 1";
            #[cfg(test)]
            mod slow_tests;
            #[cfg(test)]
            mod tests { const OTHER: &str = "SELECT 2"; }
        "#;
        let source = Source::read(text);
        assert_eq!(source.texts, ["SELECT 1"]);
        assert_eq!(source.test_modules, ["slow_tests"]);
    }
}
