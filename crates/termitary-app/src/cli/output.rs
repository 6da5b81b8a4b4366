//! Output on stdout: lines, JSON and tables, without colour and with control characters
//! escaped.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::config::escape;

/// The lines that may wait for the reader of stdout before [`Printer::line`] waits too.
const QUEUED: usize = 64;

/// The reader of stdout went away after it had read something, such as `head -1` in
/// `termitary tail | head -1`. This error ends the program without a failure.
#[derive(Debug)]
pub(super) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of stdout went away")
    }
}

impl std::error::Error for ReaderGone {}

/// Prints one line, which may wait for the reader of stdout.
///
/// # Errors
///
/// [`ReaderGone`], or the failure to write.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    /// True once the reader may have read something.
    static BEGUN: AtomicBool = AtomicBool::new(false);
    match write(&format!("{text}\n"), &BEGUN) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            if BEGUN.load(Ordering::Relaxed) {
                return Err(ReaderGone.into());
            }
            Err(anyhow!("stdout is closed: nobody reads what this prints"))
        }
        written => written.context("cannot write to stdout"),
    }
}

fn write(text: &str, begun: &AtomicBool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match stdout.write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                begun.store(true, Ordering::Relaxed);
                left = left.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stdout.flush()
}

/// Prints `text` from a thread of its own: a server must not wait for a reader.
pub(super) fn in_background(text: String) {
    let print = move || {
        if let Err(error) = line(&text) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the banner could not be printed"
            );
        }
    };
    let thread = std::thread::Builder::new().name("stdout".to_owned());
    if let Err(error) = thread.spawn(print) {
        tracing::warn!(error = %error, "the banner could not be printed");
    }
}

/// Prints lines from a thread of its own, so that a command can be stopped while its
/// reader blocks.
pub(super) struct Printer {
    lines: mpsc::Sender<String>,
    end: oneshot::Receiver<anyhow::Result<()>>,
}

impl Printer {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (lines, mut waiting) = mpsc::channel::<String>(QUEUED);
        let (ended, end) = oneshot::channel();
        let print = move || {
            let mut result = Ok(());
            while result.is_ok()
                && let Some(text) = waiting.blocking_recv()
            {
                result = line(&text);
            }
            // The receiver may be gone.
            let _ = ended.send(result);
        };
        let thread = std::thread::Builder::new().name("stdout".to_owned());
        thread.spawn(print).context("cannot start a thread")?;
        Ok(Self { lines, end })
    }

    /// Prints one line; waits if the reader is far behind.
    pub(super) async fn line(&mut self, text: String) -> anyhow::Result<()> {
        match self.lines.send(text).await {
            Ok(()) => Ok(()),
            Err(_) => self.failed().await,
        }
    }

    /// Waits for a line that cannot be written, and returns the error.
    pub(super) async fn failed(&mut self) -> anyhow::Result<()> {
        (&mut self.end).await?
    }

    /// Waits until every line is written.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        drop(self.lines);
        self.end.await?
    }
}

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints rows under a heading, or `empty` if there are none.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], empty: &str) -> anyhow::Result<()> {
    if rows.is_empty() {
        return line(empty);
    }
    let mut lines = vec![heading.iter().map(|cell| cell.to_uppercase()).collect()];
    lines.extend(
        rows.iter()
            .map(|row| row.iter().map(|cell| escape(cell)).collect::<Vec<_>>()),
    );
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            lines
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    for row in lines {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// An error and its causes on one line.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some libraries repeat the text of their cause.
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    escape(&text)
}

/// The deepest level that is indented: deeper ones would make the output too long.
const DEEPEST: usize = 32;

/// JSON with line breaks and indents, and every value unchanged: a number may be too
/// large for any type, and that may be the error that somebody looks for.
pub(super) fn pretty(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth: usize = 0;
    let (mut in_string, mut escaped) = (false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '{' | '[' => {
                text.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

fn new_line(text: &mut String, depth: usize) {
    if depth <= DEEPEST {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    }
}

/// The command that started this program, quoted for a shell, so that printed examples
/// run.
pub(super) fn program() -> String {
    let started = std::env::args_os().next().unwrap_or_default();
    shell_word(&started.to_string_lossy())
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if text.is_empty() {
        "termitary".to_owned()
    } else if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// `1 event`, `2 events`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The first characters of `text`, on one line.
pub(super) fn short(text: &str, characters: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= characters {
        return line.to_owned();
    }
    line.chars()
        .take(characters.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_others_indent_it() {
        for json in [
            r#"{"a":1,"b":[true,null,{}],"c":{"d":"x, y: {z} \" \\"},"e":[]}"#,
            r#" { "a" : [ ] , "b" : "\\" } "#,
            "1",
            r#""text""#,
            "[[1],[2,[3]]]",
        ] {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(pretty(json), serde_json::to_string_pretty(&value).unwrap());
        }
    }

    #[test]
    fn json_that_no_type_holds_is_shown_as_it_is_written() {
        let shown = pretty(r#"{"n":1e999,"m":1.50,"s":"\ud800"}"#);
        assert_eq!(
            shown,
            "{\n  \"n\": 1e999,\n  \"m\": 1.50,\n  \"s\": \"\\ud800\"\n}"
        );
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(pretty(&deep).len() < 300_000);
        for broken in ["{", "]]", r#"{"a"#, "", "\\"] {
            let _ = pretty(broken);
        }
    }

    #[test]
    fn a_program_is_named_as_a_shell_takes_it() {
        assert_eq!(
            shell_word("target/debug/termitary"),
            "target/debug/termitary"
        );
        assert_eq!(shell_word("/opt/my app/it's"), r"'/opt/my app/it'\''s'");
        assert_eq!(shell_word(""), "termitary");
    }
}
