//! Mail to a real SMTP server: aiosmtpd, from the Python that
//! `TERMITARY_TEST_SMTP_PYTHON` names (`cargo xtask test` makes one).

use std::process::Command;

use serde_json::Value;

use crate::sandbox::{Process, Sandbox, eventually, free_port};

/// Prints each mail as one line of JSON. Refuses `refused@…` for good, and the
/// first mail to `later@…` for now.
const SERVER: &str = r#"
import json, sys, time
from aiosmtpd.controller import Controller

class Handler:
    later = 0
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 no such user"
        if address.startswith("later@") and Handler.later == 0:
            Handler.later += 1
            return "450 4.2.1 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        text = envelope.content.decode("utf-8", "replace")
        print(json.dumps({"to": envelope.rcpt_tos, "from": envelope.mail_from, "text": text}), flush=True)
        return "250 accepted"

Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
print("listening", flush=True)
while True:
    time.sleep(3600)
"#;

/// The server and its port; none where there is no Python for it.
fn server(sandbox: &Sandbox) -> Option<(Process, u16)> {
    let Some(python) = std::env::var_os("TERMITARY_TEST_SMTP_PYTHON") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "TERMITARY_TEST_SMTP_PYTHON is not set"
        );
        eprintln!(
            "SKIPPED: mail to a real server needs `cargo xtask test`, or TERMITARY_TEST_SMTP_PYTHON"
        );
        return None;
    };
    let port = free_port();
    std::fs::write(sandbox.path("server.py"), SERVER).unwrap();
    let mut command = Command::new(python);
    command.arg(sandbox.path("server.py")).arg(port.to_string());
    let mut server = Process::of(command);
    server.says("listening");
    Some((server, port))
}

fn received(server: &Process) -> Vec<Value> {
    let said = server.said();
    said.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn publish_user(sandbox: &Sandbox, email: &str) -> String {
    let user =
        serde_json::json!({ "id": "1", "email": email, "name": "Zoë\r\nBcc: eve@example.com" });
    sandbox
        .ok(&["publish", "users.created", &user.to_string()])
        .trim()
        .to_owned()
}

#[test]
fn mail_reaches_a_real_server_with_a_stable_message_id() {
    let mut sandbox = Sandbox::new().with("TERMITARY_MAIL_FROM", "The Team <team@example.com>");
    let Some((server, port)) = server(&sandbox) else {
        return;
    };
    sandbox.set("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    let _worker = sandbox.start(&["worker"]).works();
    let event = publish_user(&sandbox, "ada@example.com");
    eventually("the server has the mail", || received(&server).len() == 1);
    let mail = &received(&server)[0];
    assert_eq!(mail["to"][0], "ada@example.com");
    assert_eq!(mail["from"], "team@example.com");
    let text = mail["text"].as_str().unwrap();
    assert!(
        text.contains(&format!(
            "Message-ID: <{event}.users.send-welcome@example.com>"
        )),
        "{text}"
    );
    assert!(
        text.contains("From: \"The Team\" <team@example.com>"),
        "{text}"
    );
    let headers = text.split("\r\n\r\n").next().unwrap();
    assert!(
        !headers.lines().any(|line| line.starts_with("Bcc")),
        "{text}"
    );
    assert!(sandbox.mails().is_empty());
}

#[test]
fn a_refused_recipient_is_a_dead_letter_and_a_busy_server_is_tried_again() {
    let mut sandbox = Sandbox::new();
    let Some((server, port)) = server(&sandbox) else {
        return;
    };
    sandbox.set("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    let _worker = sandbox.start(&["worker"]).works();
    publish_user(&sandbox, "refused@example.com");
    publish_user(&sandbox, "later@example.com");
    eventually("one is dead, one is sent", || {
        sandbox.count("users.send-welcome", "dead") == 1 && received(&server).len() == 1
    });
    assert_eq!(received(&server)[0]["to"][0], "later@example.com");
    let letters = sandbox.json(&["dead", "list", "--json"]);
    assert_eq!(letters[0]["reason"], "permanent");
    assert!(
        letters[0]["error"].as_str().unwrap().contains("550"),
        "{letters}"
    );
}
