//! The parser of `.env` files, which reads them like `node --env-file` and
//! `docker --env-file`: many programs share such a file, so foreign lines must not fail.
//!
//! One `NAME=value` a line, `export` before it or not, spaces around it or not. In
//! double quotes a value may span lines and hold `\n`, `\"`, `\\`; in single quotes
//! or backticks everything is literal. Without quotes a value ends with its line or
//! at a `#` after a space. A `$` is a `$`. The last line of a name wins. A line that
//! are ignored and reported by their number only, since they may contain a password.

use std::collections::BTreeMap;

/// The variables of a file, and the ignored lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EnvFile {
    pub(super) variables: BTreeMap<String, Variable>,
    pub(super) skipped: Vec<Skipped>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) value: String,
    pub(super) line: usize,
}

/// An ignored line, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

impl EnvFile {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let text = decoded(bytes);
        let mut file = Self::default();
        let mut rest = text.as_str();
        let mut line = 1;
        while !rest.is_empty() {
            let taken = match statement(rest) {
                Statement::Nothing(taken) => taken,
                Statement::Skip(taken, why) => {
                    file.skipped.push(Skipped { line, why });
                    taken
                }
                Statement::Set { name, value, taken } => {
                    file.set(name, value, line);
                    taken
                }
            };
            line += rest[..taken].matches('\n').count();
            rest = &rest[taken..];
        }
        file
    }

    fn set(&mut self, name: &str, value: String, line: usize) {
        let why = if value.contains('\0') {
            "its value holds a NUL"
        } else if value.contains(char::REPLACEMENT_CHARACTER) {
            "its value is not UTF-8"
        } else {
            self.variables
                .insert(name.to_owned(), Variable { value, line });
            return;
        };
        self.skipped.push(Skipped { line, why });
    }
}

/// The text with Unix line ends. Editors on Windows write other line ends, a byte order
/// mark, or UTF-16.
fn decoded(bytes: &[u8]) -> String {
    let sixteen = |unit: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2);
        let units: Vec<u16> = units.map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    let text = match bytes {
        [0xFF, 0xFE, ..] => sixteen(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => sixteen(u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The statement at the start of a line, and its length in bytes.
enum Statement<'a> {
    Nothing(usize),
    Skip(usize, &'static str),
    Set {
        name: &'a str,
        value: String,
        taken: usize,
    },
}

fn statement(text: &str) -> Statement<'_> {
    let end = text.find('\n').map_or(text.len(), |at| at + 1);
    let line = text[..end].trim();
    if line.is_empty() || line.starts_with('#') {
        return Statement::Nothing(end);
    }
    let Some(equals) = text[..end].find('=') else {
        return Statement::Skip(end, "it is not NAME=value");
    };
    let name = text[..equals].trim();
    let exported = name.strip_prefix("export").map(str::trim_start);
    let name = exported
        .filter(|bare| !bare.is_empty() && bare.len() + "export".len() < name.len())
        .unwrap_or(name);
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`');
    if name.is_empty() || name.contains(odd) {
        return Statement::Skip(end, "what stands before `=` is not a name");
    }
    let (value, taken) = value(&text[equals + 1..]);
    Statement::Set {
        name,
        value,
        taken: equals + 1 + taken,
    }
}

/// The value at the start of `text`, and its length in bytes with the rest of its line.
fn value(text: &str) -> (String, usize) {
    let end = text.find('\n').map_or(text.len(), |at| at + 1);
    let start = end.min(text.len() - text.trim_start_matches([' ', '\t']).len());
    let quote = text[start..].chars().next();
    if let Some(quote @ ('"' | '\'' | '`')) = quote
        && let Some((value, quoted)) = quoted(&text[start + 1..], quote)
    {
        // Text after the closing quote is ignored, like a comment.
        let behind = &text[start + 1 + quoted..];
        let rest = behind.find('\n').map_or(behind.len(), |at| at + 1);
        return (value, start + 1 + quoted + rest);
    }
    (bare(&text[..end]).to_owned(), end)
}

/// A value up to its closing quote, and its length including the quote. `None` if the
/// quote is never closed: then it is an ordinary character.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    if quote != '"' {
        let end = text.find(quote)?;
        return Some((text[..end].to_owned(), end + quote.len_utf8()));
    }
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, at + 1)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

/// A value without quotes: up to a comment, without the spaces around it.
fn bare(line: &str) -> &str {
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].ends_with([' ', '\t']));
    line[..comment.map_or(line.len(), |(at, _)| at)].trim()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Lines as they stand in files in the wild, with the name and the value that they
    /// set.
    const LINES: &[(&str, &str, &str)] = &[
        ("A=1", "A", "1"),
        ("A=", "A", ""),
        ("A=''", "A", ""),
        (r#"A="""#, "A", ""),
        ("A= ", "A", ""),
        ("A = 1", "A", "1"),
        ("  A=1  ", "A", "1"),
        ("\tA\t=\t1\t", "A", "1"),
        ("export A=1", "A", "1"),
        ("export\tA=1", "A", "1"),
        ("  export   A = '1'", "A", "1"),
        ("export=1", "export", "1"),
        ("exported=1", "exported", "1"),
        ("export_to=1", "export_to", "1"),
        ("A=a b c", "A", "a b c"),
        ("A='a b c'", "A", "a b c"),
        (r#"A="a b c""#, "A", "a b c"),
        ("A=`a b c`", "A", "a b c"),
        (r"A=' a '", "A", " a "),
        (r#"A=" a ""#, "A", " a "),
        (r#"A='{"foo": "bar"}'"#, "A", r#"{"foo": "bar"}"#),
        (r#"A={"foo": "bar"}"#, "A", r#"{"foo": "bar"}"#),
        (r#"A=`"a" and 'b'`"#, "A", r#""a" and 'b'"#),
        (r#"A="it's""#, "A", "it's"),
        ("A=it's", "A", "it's"),
        ("A='tis", "A", "'tis"),
        (r#"A="open"#, "A", r#""open"#),
        ("A=1 # comment", "A", "1"),
        ("A=1\t# comment", "A", "1"),
        ("A= # comment", "A", ""),
        (r#"A="1" # comment"#, "A", "1"),
        ("A='1' # it's a comment", "A", "1"),
        (r#"A="1 # not a comment""#, "A", "1 # not a comment"),
        ("A=pass#word", "A", "pass#word"),
        ("A=#1", "A", "#1"),
        ("A=http://host/#anchor", "A", "http://host/#anchor"),
        ("A=$HOME/x", "A", "$HOME/x"),
        ("A=${B}", "A", "${B}"),
        (r#"A="$B""#, "A", "$B"),
        (r#"A="\$B""#, "A", "$B"),
        ("A='$B'", "A", "$B"),
        ("A=pa$$word", "A", "pa$$word"),
        ("A=$(date)", "A", "$(date)"),
        (r"A=$2b$10$abcdefghij", "A", "$2b$10$abcdefghij"),
        (r"A=a\nb", "A", r"a\nb"),
        (r"A='a\nb'", "A", r"a\nb"),
        (r#"A="a\nb""#, "A", "a\nb"),
        (r#"A="a\tb\r""#, "A", "a\tb\r"),
        (r#"A="say \"hi\"""#, "A", r#"say "hi""#),
        (r#"A="C:\\data""#, "A", r"C:\data"),
        (r"A=C:\data\new", "A", r"C:\data\new"),
        (r#"A="\d+""#, "A", r"\d+"),
        ("A=a=b=c", "A", "a=b=c"),
        ("A=YWJjZA==", "A", "YWJjZA=="),
        ("A==1", "A", "=1"),
        (
            "A=postgres://u:p@h:5432/d?sslmode=disable&x=1",
            "A",
            "postgres://u:p@h:5432/d?sslmode=disable&x=1",
        ),
        ("A=tcp://10.0.0.1:6379", "A", "tcp://10.0.0.1:6379"),
        ("A=0 3 * * *", "A", "0 3 * * *"),
        (r#"A=["a","b"]"#, "A", r#"["a","b"]"#),
        ("A=Grüße 🎉", "A", "Grüße 🎉"),
        ("a.b-c=1", "a.b-c", "1"),
        ("lower_case=1", "lower_case", "1"),
        ("1A=1", "1A", "1"),
        ("A=\"one\ntwo\nthree\"", "A", "one\ntwo\nthree"),
        ("A='one\ntwo'", "A", "one\ntwo"),
        (
            "A=\"-----BEGIN KEY-----\nabc+/=\n# not a comment\n-----END KEY-----\n\"",
            "A",
            "-----BEGIN KEY-----\nabc+/=\n# not a comment\n-----END KEY-----\n",
        ),
        ("A=1\nA=2", "A", "2"),
        ("A=\"1\"x", "A", "1"),
        ("\u{feff}A=1", "A", "1"),
        ("A=1;", "A", "1;"),
        ("A=<none>", "A", "<none>"),
    ];

    #[test]
    fn lines_of_the_wild_are_read_as_others_read_them() {
        for (text, name, value) in LINES {
            for ending in ["", "\n", "\r\n"] {
                let whole = format!("{text}{ending}");
                let file = EnvFile::read(format!("{whole}\nLAST=end").as_bytes());
                let set = file.variables.get(*name).map(|set| set.value.as_str());
                assert_eq!(set, Some(*value), "{text:?}");
                assert_eq!(file.skipped, [], "{text:?}");
                let last = file.variables.get("LAST").map(|set| set.value.as_str());
                assert_eq!(last, Some("end"), "after {text:?}");
            }
        }
    }

    #[test]
    fn lines_that_set_nothing_are_left_out_and_the_others_count() {
        for text in [
            "hunter2 hunter2",
            "export A",
            "A",
            "A: yaml",
            "FOO BAR=hunter2",
            "=hunter2",
            "- A=hunter2",
            "'A'=hunter2",
            "if [ -z \"$A\" ]; then A=hunter2; fi",
            "set -a",
            "[section]",
            "<<<<<<< HEAD",
            "A=hunter2\0",
        ] {
            let file = EnvFile::read(format!("B=1\n\n{text}\nC=2\n").as_bytes());
            let lines: Vec<_> = file.skipped.iter().map(|skipped| skipped.line).collect();
            assert_eq!(lines, [3], "{text:?}");
            let names: Vec<_> = file.variables.keys().collect();
            assert_eq!(names, ["B", "C"], "{text:?}");
            assert_eq!(file.variables["C"].line, 4, "{text:?}");
        }
        for text in ["", "   ", "# A=1", "   # A=1", "\t"] {
            assert_eq!(EnvFile::read(text.as_bytes()), EnvFile::default());
        }
    }

    #[test]
    fn every_encoding_that_editors_write_is_read() {
        let text = "A=é\r\nB='1'\r\n";
        let sixteen = |unit: fn(u16) -> [u8; 2], mark: [u8; 2]| {
            let units = text.encode_utf16().flat_map(unit);
            mark.into_iter().chain(units).collect::<Vec<u8>>()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            sixteen(u16::to_le_bytes, [0xFF, 0xFE]),
            sixteen(u16::to_be_bytes, [0xFE, 0xFF]),
        ] {
            let file = EnvFile::read(&bytes);
            assert_eq!(file.variables["A"].value, "é");
            assert_eq!(file.variables["B"].value, "1");
            assert_eq!(file.skipped, []);
        }
        let latin = EnvFile::read(b"A=caf\xE9\nB=1");
        assert_eq!(latin.skipped[0].line, 1);
        assert_eq!(latin.variables["B"].value, "1");
    }

    #[test]
    fn no_text_at_all_stops_the_reading() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces = [
            "A", "=", "\"", "'", "`", "\\", "\n", "\r", " ", "#", "$", "export", "é", "\0",
            "\u{feff}",
        ];
        for _ in 0..20_000 {
            let length = random.usize(0..14);
            let text: String = (0..length)
                .map(|_| pieces[random.usize(0..pieces.len())])
                .collect();
            let file = EnvFile::read(text.as_bytes());
            let lines = text.replace("\r\n", "\n").replace('\r', "\n");
            let lines = lines.split('\n').count();
            let named = file.variables.values().map(|variable| variable.line);
            let named = named.chain(file.skipped.iter().map(|skipped| skipped.line));
            assert_eq!(named.filter(|line| *line > lines).count(), 0, "{text:?}");
        }
    }

    #[test]
    fn a_value_in_single_quotes_comes_back_as_it_was() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..2_000 {
            let value: String = (0..random.usize(0..20))
                .map(|_| random.char('\u{1}'..'\u{2ff}'))
                .filter(|c| !matches!(c, '\'' | '\r'))
                .collect();
            let file = EnvFile::read(format!("A='{value}'").as_bytes());
            assert_eq!(file.variables.get("A").unwrap().value, value);
        }
    }
}
