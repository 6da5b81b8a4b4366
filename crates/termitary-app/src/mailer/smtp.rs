//! Hands mail to an SMTP server, one connection for each mail.
//!
//! The steps are taken one by one, because the same code means different things: a 550
//! for `RCPT TO` is about the recipient, a 550 for `MAIL FROM` about the sender, which is
//! this service's configuration.

use std::borrow::Cow;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::{self, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use percent_encoding::percent_decode_str;
use url::Url;

use super::MailError;
use super::error::Step;

/// The times in which the mail server must reply.
#[derive(Clone, Copy)]
struct Patience {
    /// To the connection, and to each command.
    command: Duration,
    /// To the last line of the mail. If the wait ends too early, the server delivers the mail,
    /// and gets it again with the next attempt: RFC 5321 asks for ten minutes (4.5.3.2.6).
    mail: Duration,
}

const PATIENCE: Patience = Patience {
    command: Duration::from_secs(20),
    mail: Duration::from_mins(10),
};

/// The longest time of one mail: the connection, three commands and the mail itself.
pub(super) const LONGEST: Duration = PATIENCE
    .command
    .saturating_mul(4)
    .saturating_add(PATIENCE.mail);
/// The time in which a finished connection must close.
const CLOSING: Duration = Duration::from_secs(5);

/// A mail server and how to log in there.
#[derive(Clone)]
pub(super) struct Smtp {
    host: String,
    port: u16,
    tls: Tls,
    hello: ClientId,
    credentials: Option<Credentials>,
    patience: Patience,
}

/// A URL that does not name a mail server. It has no text: the URL may contain a
/// password.
pub(super) struct BadUrl;

impl Smtp {
    /// The server of `smtp://host:25`, `smtps://user:password@host`, or
    /// `smtp://user:password@host:587?tls=required`; a path is the name for `EHLO`.
    pub(super) fn from_url(text: &str) -> Result<Self, BadUrl> {
        let url = Url::parse(text).map_err(|_| BadUrl)?;
        let host = url.host_str().ok_or(BadUrl)?.to_owned();
        let tls = url.query_pairs().find(|(key, _)| key == "tls");
        let parameters = || TlsParameters::new(host.clone()).map_err(|_| BadUrl);
        let (port, tls) = match (url.scheme(), tls.as_ref().map(|(_, way)| way.as_ref())) {
            ("smtp", None) => (SMTP_PORT, Tls::None),
            ("smtp", Some("required")) => (SUBMISSION_PORT, Tls::Required(parameters()?)),
            ("smtp", Some("opportunistic")) => (SUBMISSION_PORT, Tls::Opportunistic(parameters()?)),
            ("smtps", _) => (SUBMISSIONS_PORT, Tls::Wrapper(parameters()?)),
            _ => return Err(BadUrl),
        };
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(
                decoded(url.username())?,
                decoded(password)?,
            )),
            None => None,
        };
        Ok(Self {
            port: url.port().unwrap_or(port),
            host,
            tls,
            hello,
            credentials,
            patience: PATIENCE,
        })
    }

    /// Returns when the server has accepted the mail.
    pub(super) async fn send(&self, envelope: &Envelope, mail: &[u8]) -> Result<(), MailError> {
        let mut connection = within(self.patience.command, Step::Connect, self.connect()).await?;
        let sent = hand_over(&mut connection, self.patience, envelope, mail).await;
        // The result is known: the mail does not wait for the connection to close.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CLOSING, connection.abort()).await;
        });
        sent
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        let from_the_start = match &self.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let server = (self.host.as_str(), self.port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            server,
            Some(self.patience.command),
            &self.hello,
            from_the_start,
            None,
        )
        .await?;
        match &self.tls {
            Tls::Required(parameters) => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }
}

async fn hand_over(
    connection: &mut AsyncSmtpConnection,
    patience: Patience,
    envelope: &Envelope,
    mail: &[u8],
) -> Result<(), MailError> {
    let options = options(connection, envelope, mail)?;
    let from = Mail::new(envelope.from().cloned(), options);
    within(patience.command, Step::Sender, connection.command(from)).await?;
    for to in envelope.to() {
        let to = Rcpt::new(to.clone(), Vec::new());
        within(patience.command, Step::Recipient, connection.command(to)).await?;
    }
    within(patience.command, Step::Content, connection.command(Data)).await?;
    within(patience.mail, Step::Content, connection.message(mail)).await?;
    Ok(())
}

/// The extensions that a mail with other characters than ASCII needs.
fn options(
    connection: &AsyncSmtpConnection,
    envelope: &Envelope,
    mail: &[u8],
) -> Result<Vec<MailParameter>, MailError> {
    let supports = |extension| connection.server_info().supports_feature(extension);
    let mut options = Vec::new();
    let addresses = envelope.from().into_iter().chain(envelope.to());
    if addresses
        .into_iter()
        .any(|address| !AsRef::<str>::as_ref(address).is_ascii())
    {
        if !supports(Extension::SmtpUtfEight) {
            return Err(MailError::permanent(
                "the mail server accepts only ASCII addresses",
                "it does not offer SMTPUTF8",
            ));
        }
        options.push(MailParameter::SmtpUtfEight);
    }
    if !mail.is_ascii() {
        if !supports(Extension::EightBitMime) {
            return Err(MailError::passing(
                "the mail server accepts only ASCII text",
                "it does not offer 8BITMIME",
            ));
        }
        options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(options)
}

async fn within<T>(
    time: Duration,
    step: Step,
    answer: impl Future<Output = Result<T, smtp::Error>>,
) -> Result<T, MailError> {
    match tokio::time::timeout(time, answer).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(MailError::of_server(step, &error)),
        Err(_) => Err(MailError::passing(
            "the mail server did not accept the mail",
            format!("no reply within {} seconds", time.as_secs()),
        )),
    }
}

fn decoded(text: &str) -> Result<String, BadUrl> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| BadUrl)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    fn parse(url: &str) -> Option<(String, u16, &'static str)> {
        let smtp = Smtp::from_url(url).ok()?;
        let tls = match smtp.tls {
            Tls::None => "none",
            Tls::Required(_) => "required",
            Tls::Opportunistic(_) => "opportunistic",
            Tls::Wrapper(_) => "wrapper",
        };
        Some((smtp.host, smtp.port, tls))
    }

    #[test]
    fn each_documented_url_names_its_server() {
        let at = |port, tls| Some(("mail.example.com".to_owned(), port, tls));
        assert_eq!(parse("smtp://mail.example.com:26"), at(26, "none"));
        assert_eq!(parse("smtp://mail.example.com"), at(25, "none"));
        assert_eq!(parse("smtps://u:p@mail.example.com"), at(465, "wrapper"));
        assert_eq!(
            parse("smtp://u:p@mail.example.com?tls=required"),
            at(587, "required")
        );
        for bad in [
            "mail.example.com",
            "http://mail.example.com",
            "smtp://",
            "smtp://h?tls=x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_may_hold_any_letter() {
        let smtp = Smtp::from_url("smtp://ada%40example.com:a%2Fb+c%C3%A9@mail")
            .ok()
            .unwrap();
        let expected = Credentials::new("ada@example.com".into(), "a/b+cé".into());
        assert!(smtp.credentials == Some(expected));
    }

    /// A server that takes one mail and replies to its last line after `time`; returns its port.
    async fn slow_server(time: Duration) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 mail\r\n").await.unwrap();
            while let Some(line) = lines.next_line().await.unwrap() {
                let reply = match line.split([' ', ':']).next().unwrap_or_default() {
                    "EHLO" | "MAIL" | "RCPT" | "QUIT" => "250 fine\r\n",
                    "DATA" => "354 go ahead\r\n",
                    "." => {
                        tokio::time::sleep(time).await;
                        "250 accepted\r\n"
                    }
                    _ => continue,
                };
                write.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn a_server_may_take_longer_to_accept_a_mail_than_to_reply_to_a_command() {
        let port = slow_server(Duration::from_secs(1)).await;
        let mut smtp = Smtp::from_url(&format!("smtp://127.0.0.1:{port}"))
            .ok()
            .unwrap();
        smtp.patience = Patience {
            command: Duration::from_millis(500),
            mail: Duration::from_mins(1),
        };
        let address: lettre::Address = "ada@example.com".parse().unwrap();
        let envelope = Envelope::new(Some(address.clone()), vec![address]).unwrap();
        smtp.send(&envelope, b"Subject: Hello\r\n\r\nHello\r\n")
            .await
            .unwrap();
        assert!(PATIENCE.mail >= Duration::from_mins(10), "RFC 5321");
    }
}
