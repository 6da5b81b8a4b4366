//! The error of a mail that was not sent.

use std::fmt;

use lettre::transport::smtp;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The reason why a mail was not sent.
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

    /// Returns true if the receiver will never accept this mail, so a retry cannot help.
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

/// The step at which the server refused a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Sender,
    Recipient,
    Content,
}

impl MailError {
    /// The error that the server reported at this step.
    pub(super) fn of_server(step: Step, error: &smtp::Error) -> Self {
        // The text contains everything: its causes repeat the server's words.
        let said = error.to_string();
        let code = error.status().filter(|_| error.is_permanent());
        let final_for_recipient = code.is_some_and(|code| is_final(step, u16::from(code), &said));
        let said = without_addresses(&said);
        if final_for_recipient {
            return Self::permanent("the mail server refuses this recipient for good", said);
        }
        Self::passing(
            match step {
                Step::Connect => "the mail server did not accept the connection",
                Step::Sender => {
                    "the mail server refuses the sender: check TERMITARY_MAIL_FROM and SMTP_URL"
                }
                Step::Recipient | Step::Content => "the mail server did not accept the mail",
            },
            said,
        )
    }
}

/// Removes addresses: servers repeat the recipient that they refuse, and logs and dead
/// letters must not contain it.
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

/// Returns true if a permanent error is about this recipient or this mail. Other
/// errors, such as a wrong password (535) or a refused sender, are about this service's
/// configuration: the mail waits until an operator corrects it.
fn is_final(step: Step, code: u16, said: &str) -> bool {
    let about_mailbox = matches!(code, 550..=553 | 556);
    match step {
        Step::Connect | Step::Sender => false,
        Step::Recipient => about_mailbox && !blames_sender(said),
        Step::Content => about_mailbox,
    }
}

/// Returns true if the error is about the sender. Many servers refuse the sender only
/// once the recipient is named; the enhanced code (RFC 3463) tells the difference: 5.1.7
/// and 5.1.8 are about the sender's address, 5.7.* about the server's policy.
fn blames_sender(said: &str) -> bool {
    let enhanced = said
        .split([' ', ':'])
        .find(|word| word.starts_with("5.") && word.split('.').count() == 3);
    enhanced.is_some_and(|code| matches!(code, "5.1.7" | "5.1.8") || code.starts_with("5.7."))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let unknown = "permanent error (550): 5.1.1 no such user";
        assert!(is_final(Step::Recipient, 550, unknown));
        assert!(is_final(Step::Recipient, 553, "permanent error (553): no"));
        assert!(is_final(Step::Content, 552, "permanent error (552): full"));
        assert!(!is_final(Step::Sender, 550, unknown));
        assert!(!is_final(Step::Sender, 553, "permanent error (553): no"));
        for code in [535, 530, 450, 554] {
            assert!(!is_final(Step::Recipient, code, unknown), "{code}");
        }
        for sender in [
            "5.1.8 bad sender",
            "5.1.7 bad sender",
            "5.7.1 relaying denied",
        ] {
            let said = format!("permanent error (550): {sender}");
            assert!(!is_final(Step::Recipient, 550, &said), "{said}");
        }
    }
}
