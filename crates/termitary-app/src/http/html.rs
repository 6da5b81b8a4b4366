//! Small pages for people who follow a link in a mail, without scripts and under a
//! policy that forbids them.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::problem::ApiError;

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
h1{font-size:1.4rem}label{display:block;margin:.8rem 0 .2rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.4rem}\
button{font:inherit;margin-top:1rem;padding:.4rem 1rem}dt{font-weight:600;margin-top:.6rem}dd{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}\
.wrong{color:#a40000}@media(prefers-color-scheme:dark){body{color:#eee;background:#1b1b1b}.wrong{color:#ff9d9d}}";

/// Allows this style, and forms that are sent to this service.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    HeaderValue::try_from(format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ))
    .ok()
});

/// A page: its status, its title, and its parts.
pub(crate) struct Html {
    status: StatusCode,
    title: &'static str,
    body: String,
}

/// The kind of a paragraph.
#[derive(Clone, Copy)]
pub(crate) enum Tag {
    Text,
    Wrong,
}

impl Html {
    pub(crate) fn new(status: StatusCode, title: &'static str) -> Self {
        Self {
            status,
            title,
            body: String::new(),
        }
    }

    /// Adds a paragraph. Texts are always escaped.
    pub(crate) fn text(mut self, tag: Tag, text: &str) -> Self {
        let class = match tag {
            Tag::Text => "",
            Tag::Wrong => " class=\"wrong\" role=\"alert\"",
        };
        self.push(format_args!("<p{class}>{}</p>", escape(text)));
        self
    }

    /// Adds a link to another page of this service.
    pub(crate) fn link(mut self, path: &str, text: &str) -> Self {
        self.push(format_args!(
            "<p><a href=\"{}\">{}</a></p>",
            escape(path),
            escape(text)
        ));
        self
    }

    /// Adds a list of names and values.
    pub(crate) fn list(mut self, rows: &[(&str, String)]) -> Self {
        self.push(format_args!("<dl>"));
        for (name, value) in rows {
            self.push(format_args!(
                "<dt>{}</dt><dd>{}</dd>",
                escape(name),
                escape(value)
            ));
        }
        self.push(format_args!("</dl>"));
        self
    }

    /// Adds a form that is sent to the page's own address. Each field has a name, a
    /// type, an `autocomplete` value and a label.
    pub(crate) fn form(mut self, fields: &[[&str; 4]], button: &str) -> Self {
        self.push(format_args!("<form method=\"post\">"));
        for [name, kind, autocomplete, label] in fields {
            self.push(format_args!(
                "<label for=\"{0}\">{3}</label><input id=\"{0}\" name=\"{0}\" type=\"{1}\" autocomplete=\"{2}\" required>",
                escape(name),
                escape(kind),
                escape(autocomplete),
                escape(label)
            ));
        }
        self.push(format_args!(
            "<button type=\"submit\">{}</button></form>",
            escape(button)
        ));
        self
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.body.write_fmt(part);
    }
}

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <meta name=\"robots\" content=\"noindex\"><title>{title} – Termitary</title><style>{STYLE}</style></head>\
             <body><h1>{title}</h1>{body}</body></html>",
            title = escape(self.title),
            body = self.body
        );
        let mut response = (self.status, page).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        if let Some(policy) = POLICY.clone() {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

/// Text escaped for HTML, also within quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The status and the text of an error, for a page.
pub(crate) fn words_of(error: ApiError) -> (StatusCode, String) {
    let status = error.status();
    let (detail, errors) = error.detail();
    let words = errors.first().map(|error| error.message.clone());
    let words = words.or(detail).unwrap_or_else(|| {
        status
            .canonical_reason()
            .unwrap_or("This failed")
            .to_owned()
    });
    (status, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_a_tag_or_an_attribute() {
        let evil = "<script>alert('1')</script>\" onload=\"x&";
        let page = Html::new(StatusCode::OK, "Test")
            .text(Tag::Wrong, evil)
            .link(evil, evil)
            .list(&[(evil, evil.to_owned())])
            .form(&[[evil; 4]], evil);
        assert!(!page.body.contains("<script") && !page.body.contains("\" onload"));
    }
}
