//! The meaning of a mail server's refusal, by the step at which it comes.

use std::sync::{Arc, Mutex};

use termitary_app::mailer::{Mail, MailError, Mailer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A server that gives one chosen reply at one step; returns its port and its input.
async fn server(step: &'static str, answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(speak(stream, step, answer, Arc::clone(&all)));
        }
    });
    (port, heard)
}

async fn speak(
    mut stream: TcpStream,
    step: &'static str,
    answer: &'static str,
    heard: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail\r\n").await?;
    let mut content = false;
    while let Some(line) = lines.next_line().await? {
        heard.lock().unwrap().push(line.clone());
        let verb = match line.split([' ', ':']).next().unwrap_or_default() {
            "." if content => {
                content = false;
                "CONTENT"
            }
            _ if content => continue,
            verb => verb,
        };
        let said = match verb {
            verb if verb == step => answer,
            "DATA" => {
                content = true;
                "354 go ahead"
            }
            _ => "250 fine",
        };
        write.write_all(format!("{said}\r\n").as_bytes()).await?;
    }
    Ok(())
}

async fn send_to(port: u16) -> Result<(), MailError> {
    let mailer = Mailer::smtp(&format!("smtp://127.0.0.1:{port}")).unwrap();
    let mail = Mail {
        to: "ada@example.com".to_owned(),
        subject: "Hello".to_owned(),
        text: "Hello\n.\nthere".to_owned(),
        message_id: "1:test".to_owned(),
    };
    mailer.send(mail).await
}

#[tokio::test]
async fn only_a_refusal_of_the_recipient_or_of_the_mail_is_final() {
    for (step, answer, permanent) in [
        ("MAIL", "550 sender refused", false),
        ("MAIL", "550 5.1.1 no such user", false),
        ("MAIL", "553 5.7.1 sender not owned by user", false),
        ("MAIL", "451 later", false),
        ("RCPT", "550 no such user", true),
        ("RCPT", "550 5.1.1 no such user", true),
        ("RCPT", "553 5.1.3 bad address", true),
        ("RCPT", "550 5.1.8 sender's domain does not exist", false),
        ("RCPT", "550 5.7.1 relaying denied", false),
        ("RCPT", "554 5.7.1 relay access denied", false),
        ("RCPT", "450 4.2.1 busy", false),
        ("DATA", "554 no valid recipients", false),
        ("CONTENT", "552 5.3.4 too large", true),
        ("CONTENT", "451 later", false),
        ("EHLO", "550 go away", false),
    ] {
        let (port, _) = server(step, answer).await;
        let error = send_to(port).await.unwrap_err();
        assert_eq!(
            error.is_permanent(),
            permanent,
            "{step} {answer}: {error:?}"
        );
        let told = format!("{error} {error:?}");
        assert!(!told.contains("ada@example.com"), "{told}");
        if step == "MAIL" && answer.starts_with("55") {
            assert!(told.contains("TERMITARY_MAIL_FROM"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_mail_that_is_taken_arrives_whole() {
    let (port, heard) = server("NEVER", "").await;
    send_to(port).await.unwrap();
    let heard = heard.lock().unwrap().join("\n");
    for part in [
        "MAIL FROM:<termitary@localhost>",
        "RCPT TO:<ada@example.com>",
        "Subject: Hello",
        "Hello\n..\nthere",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}
