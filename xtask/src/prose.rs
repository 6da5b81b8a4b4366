//! Comments and documents are plain English: the subject of a sentence is a noun, and functions
//! return.

use std::path::{Path, PathBuf};

/// The files and folders that are checked.
const CHECKED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/README.md",
    "docs/guide",
    "deploy",
    "bench",
    "chaos",
    "crates",
    "xtask",
    "crates/termitary-bench",
];

/// Words that begin a clause in the place of a noun. A question may begin with them.
const OPENINGS: &[&str] = &[
    "How", "That", "What", "Whatever", "Where", "Whether", "Who", "Whoever", "Whom", "Whose",
];

/// Words for which there is a better one: "returns", "responds", "confirmed".
const WORDS: &[&str] = &["answers", "answered", "answering"];

/// The paragraphs of a Markdown text; cells of tables and items of lists are paragraphs too.
fn of_markdown(text: &str) -> Vec<String> {
    let mut paragraphs = Paragraphs::default();
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            paragraphs.fence();
        } else if line.starts_with('#') {
            paragraphs.end();
        } else if let Some(row) = line.strip_prefix('|') {
            for cell in row.split('|') {
                paragraphs.end();
                paragraphs.add(cell);
            }
            paragraphs.end();
        } else {
            paragraphs.add(line);
        }
    }
    paragraphs.done()
}

/// The paragraphs of the comments of a Rust text.
fn of_rust(text: &str) -> Vec<String> {
    let mut paragraphs = Paragraphs::default();
    for line in text.lines().map(str::trim_start) {
        let comment = ["///", "//!", "//"]
            .iter()
            .find_map(|mark| line.strip_prefix(mark));
        match comment.map(str::trim) {
            None => paragraphs.break_off(),
            Some(words) if words.starts_with("```") => paragraphs.fence(),
            Some(words) if words.starts_with('#') => paragraphs.end(),
            Some(words) => paragraphs.add(words),
        }
    }
    paragraphs.done()
}

/// Collects lines into paragraphs, without blocks of code.
#[derive(Default)]
struct Paragraphs {
    ended: Vec<String>,
    current: String,
    in_code: bool,
}

impl Paragraphs {
    fn add(&mut self, line: &str) {
        if self.in_code {
            return;
        }
        let item = ["- ", "* "].iter().find_map(|mark| line.strip_prefix(mark));
        if item.is_some() || line.is_empty() {
            self.end();
        }
        if !self.current.is_empty() {
            self.current.push(' ');
        }
        self.current.push_str(item.unwrap_or(line).trim());
    }

    fn end(&mut self) {
        self.ended.push(std::mem::take(&mut self.current));
    }

    fn fence(&mut self) {
        self.end();
        self.in_code = !self.in_code;
    }

    /// Ends a comment, with a block of code in it.
    fn break_off(&mut self) {
        self.end();
        self.in_code = false;
    }

    fn done(mut self) -> Vec<String> {
        self.end();
        self.ended
    }
}

/// The sentences of a paragraph, without code and emphasis.
fn sentences(paragraph: &str) -> Vec<String> {
    let prose: String = paragraph
        .split('`')
        .step_by(2)
        .collect::<Vec<_>>()
        .join("…");
    let prose = prose.replace(['*', '_', '"'], "");
    let mut sentences = vec![String::new()];
    for word in prose.split_whitespace() {
        let begins = word.chars().find(|c| c.is_alphanumeric());
        let last = sentences.last_mut().map_or("", |last| last.trim_end());
        if last.ends_with(['.', '!', '?']) && begins.is_some_and(char::is_uppercase) {
            sentences.push(String::new());
        }
        if let Some(last) = sentences.last_mut() {
            last.push_str(word);
            last.push(' ');
        }
    }
    sentences
}

/// The forbidden word of a sentence, if it has one.
fn wrong(sentence: &str) -> Option<&'static str> {
    let is_question = sentence.trim_end().ends_with('?');
    let mut words = sentence
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    let first = words.clone().next()?;
    let opening = OPENINGS.iter().find(|opening| **opening == first);
    if let Some(opening) = opening.filter(|_| !is_question) {
        return Some(opening);
    }
    words.find_map(|word| WORDS.iter().find(|bad| **bad == word).copied())
}

/// Every Markdown and Rust file at or under `path`.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| !path.ends_with("target") && !path.ends_with("node_modules"))
        .filter(|path| path.is_dir() || !kind(path).is_empty())
        .flat_map(|path| files(&path))
        .collect();
    found.sort();
    found
}

fn kind(path: &Path) -> &str {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension
        .filter(|kind| ["md", "rs"].contains(kind))
        .unwrap_or("")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_begins_with_its_subject_and_functions_return() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        let checked = CHECKED
            .iter()
            .flat_map(|path| files(&repository.join(path)));
        for file in checked {
            let text = std::fs::read_to_string(&file).unwrap();
            let paragraphs = match kind(&file) {
                "md" => of_markdown(&text),
                _ => of_rust(&text),
            };
            for sentence in paragraphs.iter().flat_map(|text| sentences(text)) {
                if let Some(word) = wrong(&sentence) {
                    found.push(format!("{} ({word}): {sentence}", file.display()));
                }
            }
        }
        assert!(
            found.is_empty(),
            "{} sentences:\n{}",
            found.len(),
            found.join("\n")
        );
    }

    #[test]
    fn wrong_sentences_are_found_in_comments_and_documents() {
        let found = |paragraphs: Vec<String>| -> Vec<&str> {
            let sentences = paragraphs.iter().flat_map(|text| sentences(text));
            sentences.filter_map(|sentence| wrong(&sentence)).collect()
        };
        let rust = "/// Locks it. What was\n/// read stays.\nfn a() {}\n// Whether it `answers` is\n// unknown. It answers.";
        assert_eq!(found(of_rust(rust)), ["What", "Whether", "answers"]);
        let markdown = "# What it is\n\nWho is it? A **row**.\n\n| Whoever asks | gets one |\n- That it fails.\n```\nWhat\n```\n";
        assert_eq!(found(of_markdown(markdown)), ["Whoever", "That"]);
    }
}
