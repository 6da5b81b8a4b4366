//! Sends mail: to a server, into a folder of `.eml` files, or into memory for tests.

mod error;
mod folder;
mod smtp;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lettre::Address;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message};

pub use error::MailError;
use smtp::Smtp;

/// The longest time that [`Mailer::send`] takes.
pub(crate) const LONGEST: Duration = smtp::LONGEST;

/// One mail to one person, in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The recipient's address.
    pub to: String,
    /// The subject; line breaks in it become spaces.
    pub subject: String,
    /// The body.
    pub text: String,
    /// The idempotency key of the delivery, the same in every attempt. It becomes the
    /// `Message-ID`, so that receivers can drop the copy of a mail that was sent twice.
    pub message_id: String,
}

/// Sends mail; cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    transport: Transport,
}

#[derive(Clone)]
enum Transport {
    Smtp(Arc<Smtp>),
    Files(PathBuf),
    Memory(Arc<Mutex<Vec<Mail>>>),
}

impl Mailer {
    /// Sends to the server of an `smtp://` or `smtps://` URL, with
    /// `?tls=required` for STARTTLS.
    pub fn smtp(url: &str) -> anyhow::Result<Self> {
        let smtp = Smtp::from_url(url).map_err(|_| {
            anyhow::anyhow!("not a mail server's URL: write smtp://host:25, smtps://user:password@host, or smtp://user:password@host:587?tls=required")
        })?;
        Ok(Self::new(Transport::Smtp(Arc::new(smtp))))
    }

    /// Writes `.eml` files into `dir`, which is created with the first mail.
    pub fn files(dir: impl Into<PathBuf>) -> Self {
        Self::new(Transport::Files(dir.into()))
    }

    /// Keeps mail in memory, for tests: see [`Mailer::sent`].
    pub fn memory() -> Self {
        Self::new(Transport::Memory(Arc::default()))
    }

    fn new(transport: Transport) -> Self {
        // Unchecked, but these two words are a valid address.
        let address = Address::new_dangerous("termitary", "localhost");
        Self {
            from: Mailbox::new(Some("Termitary".to_owned()), address),
            transport,
        }
    }

    /// Sets the sender, written as `Name <address>` or as an address alone.
    pub fn sender(mut self, from: &str) -> anyhow::Result<Self> {
        self.from = from.parse().with_context(|| {
            format!("`{from}` is not a sender: write `Name <name@example.com>`")
        })?;
        Ok(self)
    }

    /// Sends one mail. Returns when the server has accepted it, or when its file is on the
    /// disk.
    pub async fn send(&self, mail: Mail) -> Result<(), MailError> {
        match &self.transport {
            Transport::Smtp(server) => {
                let message = self.message(&mail, Text::Ascii)?;
                server
                    .send(message.envelope(), &message.formatted())
                    .await?;
            }
            Transport::Files(dir) => {
                let bytes = self.message(&mail, Text::Utf8)?.formatted();
                let (dir, id) = (dir.clone(), safe_id(&mail.message_id));
                let write = move || folder::write(&folder::Real, &dir, &id, &bytes);
                let written = tokio::task::spawn_blocking(write).await;
                written
                    .map_err(std::io::Error::other)
                    .flatten()
                    .map_err(|error| {
                        MailError::passing("cannot write the mail into its folder", error)
                    })?;
            }
            Transport::Memory(sent) => {
                self.message(&mail, Text::Ascii)?;
                sent.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(mail);
            }
        }
        Ok(())
    }

    /// The mails sent so far, if this mailer keeps them in memory.
    pub fn sent(&self) -> Vec<Mail> {
        match &self.transport {
            Transport::Memory(sent) => sent.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Transport::Smtp(_) | Transport::Files(_) => Vec::new(),
        }
    }

    /// The mail as RFC 5322 text. The address is parsed and the rest encoded
    /// or stripped, so that no value can begin a header of its own.
    fn message(&self, mail: &Mail, text: Text) -> Result<Message, MailError> {
        let to = address(&mail.to)
            .map_err(|error| MailError::permanent("the recipient's address is invalid", error))?;
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(one_line(&mail.subject))
            .message_id(Some(format!(
                "<{}@{}>",
                safe_id(&mail.message_id),
                self.from.email.domain()
            )))
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(body(&mail.text, text))
            .map_err(|error| MailError::permanent("the mail cannot be formatted", error))
    }
}

/// The characters that the transport of a mail takes as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    /// A server: not every one takes others.
    Ascii,
    /// A file.
    Utf8,
}

/// The longest line of a mail (RFC 5322, 2.1.1).
const LONGEST_LINE: usize = 998;

/// The body, as it is if the transport and the lines allow it. Encoded text is folded, which
/// breaks long links for people who read the `.eml` file itself.
fn body(text: &str, accepted: Text) -> Body {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let plain = text.lines().all(|line| line.len() <= LONGEST_LINE) && !text.contains('\0');
    let encoding = match accepted {
        _ if plain && text.is_ascii() => ContentTransferEncoding::SevenBit,
        Text::Utf8 if plain => ContentTransferEncoding::EightBit,
        Text::Ascii | Text::Utf8 => return Body::new(text),
    };
    Body::dangerous_pre_encoded(text.replace('\n', "\r\n").into_bytes(), encoding)
}

/// Parses an address.
fn address(text: &str) -> Result<Address, lettre::address::AddressError> {
    text.parse()
}

/// Returns true if mail can be sent to `text`. The address must also survive being
/// written into a header and read again.
pub(crate) fn is_address(text: &str) -> bool {
    let Ok(to) = address(text) else { return false };
    let trial = Message::builder()
        .from(Mailbox::new(None, to.clone()))
        .to(Mailbox::new(None, to.clone()));
    let written = trial.body(String::new());
    written.is_ok_and(|message| message.envelope().to() == [to])
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `key` in characters that both a `Message-ID` and a file name allow.
fn safe_id(key: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    key.chars()
        .map(|c| if allowed(c) { c } else { '.' })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn mail(to: &str, subject: &str) -> Mail {
        Mail {
            to: to.into(),
            subject: subject.into(),
            text: "Hello\nthere".into(),
            message_id: "0190-1:users.send-welcome".into(),
        }
    }

    fn text(mail: &Mail) -> String {
        String::from_utf8(
            Mailer::memory()
                .message(mail, Text::Ascii)
                .unwrap()
                .formatted(),
        )
        .unwrap()
    }

    #[test]
    fn the_message_id_is_the_idempotency_key() {
        let text = text(&mail("ada@example.com", "Hi"));
        assert!(
            text.contains("Message-ID: <0190-1.users.send-welcome@localhost>\r\n"),
            "{text}"
        );
    }

    #[test]
    fn no_value_begins_a_header_of_its_own() {
        let mut evil = mail("ada@example.com", "Hi\r\nBcc: eve@example.com");
        evil.message_id = "x>\r\nBcc: eve@example.com".into();
        let headers = text(&evil).split("\r\n\r\n").next().unwrap().to_owned();
        assert!(
            !headers.lines().any(|line| line.starts_with("Bcc")),
            "{headers}"
        );
        let refused = Mailer::memory().message(
            &mail("a@example.com\r\nBcc: eve@example.com", "Hi"),
            Text::Ascii,
        );
        assert!(refused.unwrap_err().is_permanent());
    }

    /// The file of a mail with this text.
    async fn file(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut mail = mail("ada@example.com", "Hi");
        mail.text = text.to_owned();
        Mailer::files(dir.path()).send(mail).await.unwrap();
        let name = "0190-1.users.send-welcome.eml";
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[tokio::test]
    async fn a_long_link_is_whole_in_the_file() {
        let link = format!(
            "https://todos.{}.example.com/confirm/ttm_x",
            "long".repeat(30)
        );
        for text in ["Hello", "Grüße, Zoë: 水やり"] {
            let file = file(&format!("{text}\n{link}\nTermitary\n")).await;
            assert!(
                file.contains(&format!("{text}\r\n{link}\r\nTermitary\r\n")),
                "{file}"
            );
        }
        let endless = file(&"x".repeat(2_000)).await;
        assert!(endless.lines().all(|line| line.len() <= 998), "{endless}");
    }

    #[test]
    fn a_server_gets_only_ascii_and_whole_links() {
        let link = format!(
            "https://todos.{}.example.com/confirm/ttm_x",
            "long".repeat(30)
        );
        let mut mail = mail("ada@example.com", "Hi");
        mail.text = format!("Hello\r\n{link}\n");
        let whole = text(&mail);
        assert!(
            whole.contains(&format!("\r\nHello\r\n{link}\r\n")),
            "{whole}"
        );
        mail.text = format!("Grüße\n{link}\n");
        assert!(text(&mail).is_ascii());
    }

    #[test]
    fn a_bad_server_url_is_refused_without_its_password() {
        let error = Mailer::smtp("http://user:hunter2@mail.example.com")
            .err()
            .unwrap();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_mail_sent_twice_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let mailer = Mailer::files(dir.path().join("mail"));
        for _ in 0..2 {
            mailer.send(mail("ada@example.com", "Hi")).await.unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(dir.path().join("mail"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["0190-1.users.send-welcome.eml"]);
    }
}
