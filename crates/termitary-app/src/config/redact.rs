//! URLs without their passwords, for messages and logs.

use std::borrow::Cow;

/// `url` with its password replaced.
///
/// Works on invalid URLs too: a mistyped URL still contains the password.
pub fn redact(url: &str) -> String {
    let url = &*without_parameter(url);
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(s, r)| (s, r));
    // A password may contain an unencoded `/` or `@`: cutting at the last `@` is safe.
    let Some((login, host)) = rest.rsplit_once('@') else {
        return escape(url);
    };
    let user = login.split(':').next().unwrap_or_default();
    let login = if login.contains(':') {
        format!("{user}:***")
    } else {
        "***".to_owned()
    };
    let joint = if scheme.is_empty() { "" } else { "://" };
    escape(&format!("{scheme}{joint}{login}@{host}"))
}

/// `url` without the value of its parameter `password`.
fn without_parameter(url: &str) -> Cow<'_, str> {
    const NAME: &str = "password=";
    let Some((path, query)) = url.split_once('?') else {
        return url.into();
    };
    let hidden = |part: &str| {
        if part.starts_with(NAME) {
            format!("{NAME}***")
        } else {
            part.to_owned()
        }
    };
    let parts: Vec<String> = query.split('&').map(hidden).collect();
    format!("{path}?{}", parts.join("&")).into()
}

/// `text` with control characters made visible, so that foreign text cannot control the
/// terminal.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_bidi(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns true for characters that change the direction of the text after them.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_url_keeps_everything_but_the_password() {
        assert_eq!(
            redact("redis://ada:secret@db:6379/1"),
            "redis://ada:***@db:6379/1"
        );
        assert_eq!(redact("redis://:se/cr@et@db"), "redis://:***@db");
        assert_eq!(redact("redis://db:6379"), "redis://db:6379");
        assert_eq!(redact("ada:secret@db"), "ada:***@db");
        assert_eq!(redact("redis://secret@db"), "redis://***@db");
        assert_eq!(
            redact("postgres://ada@db/x?password=secret&sslmode=require"),
            "postgres://***@db/x?password=***&sslmode=require"
        );
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(escape("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
    }
}
