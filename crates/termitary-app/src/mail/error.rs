//! Why a mail was not sent, and whether trying again can help.

use std::fmt;

use lettre::transport::smtp;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A mail was not sent.
#[derive(Debug)]
pub struct MailError {
    permanent: bool,
    what: &'static str,
    source: BoxError,
}

impl MailError {
    pub(super) fn permanent(what: &'static str, source: impl Into<BoxError>) -> Self {
        Self {
            permanent: true,
            what,
            source: source.into(),
        }
    }

    pub(super) fn passing(what: &'static str, source: impl Into<BoxError>) -> Self {
        Self {
            permanent: false,
            what,
            source: source.into(),
        }
    }

    /// The receiver will never take this mail: trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for MailError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl From<smtp::Error> for MailError {
    fn from(error: smtp::Error) -> Self {
        let code = error.status().map(u16::from);
        let permanent = error.is_permanent() && code.is_some_and(refuses_recipient);
        // As text, and all of it: the causes behind it repeat the server's words.
        let said = without_addresses(&error.to_string());
        if permanent {
            return Self::permanent("the mail server refuses this recipient for good", said);
        }
        Self::passing("the mail server did not take the mail", said)
    }
}

/// Mail servers like to repeat whom they refuse; logs and dead letters shall
/// not know it.
fn without_addresses(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        if word.contains('@') {
            "[address]"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The permanent answers that are about the recipient. Others, such as a wrong
/// password (535), are about this server's configuration: the mail waits until
/// somebody corrects it.
fn refuses_recipient(code: u16) -> bool {
    matches!(code, 550..=553 | 556)
}

#[cfg(test)]
mod tests {
    use super::{refuses_recipient, without_addresses};

    #[test]
    fn what_a_server_says_is_told_without_addresses() {
        assert_eq!(
            without_addresses(
                "error (550): 5.1.1 <ada@example.com>: no such user, ada@example.com"
            ),
            "error (550): 5.1.1 [address] no such user, [address]"
        );
        assert_eq!(
            without_addresses("connection refused"),
            "connection refused"
        );
    }

    #[test]
    fn only_answers_about_the_recipient_are_final() {
        assert!(refuses_recipient(550) && refuses_recipient(553));
        assert!(!refuses_recipient(535) && !refuses_recipient(530) && !refuses_recipient(450));
    }
}
