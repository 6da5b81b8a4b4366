//! Mail to a real SMTP server: aiosmtpd, from the Python that
//! `TERMITARY_TEST_SMTP_PYTHON` names (`cargo xtask test` makes one).

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::redis_server::with_redis;
use crate::sandbox::{Process, Sandbox, eventually, free_port};

/// Prints each mail as one line of JSON. If the second argument is a number, it replies to that
/// many mails and then waits until the file `go` exists: the server has the mail, but the sender
/// does not know. Refuses mail from `wrong@…` and to `refused@…` for good, and the first mail to
/// `later@…` temporarily.
const SERVER: &str = r#"
import asyncio, json, os, sys, time
from aiosmtpd.controller import Controller

answered = int(sys.argv[2])

class Handler:
    later = 0
    taken = 0
    async def handle_MAIL(self, server, session, envelope, address, options):
        if address.startswith("wrong@"):
            return "550 sender refused"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

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
        Handler.taken += 1
        while Handler.taken > answered and not os.path.exists("go"):
            await asyncio.sleep(0.05)
        return "250 accepted"

Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
print("listening", flush=True)
while True:
    time.sleep(3600)
"#;

/// The server and its port; none where there is no Python for it.
fn server(sandbox: &Sandbox) -> Option<(Process, u16)> {
    server_answering(sandbox, 1_000)
}

/// The same server, which replies to that many mails only.
fn server_answering(sandbox: &Sandbox, mails: usize) -> Option<(Process, u16)> {
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
    command
        .arg(sandbox.path("server.py"))
        .arg(port.to_string())
        .arg(mails.to_string())
        .current_dir(sandbox.path(""));
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

#[test]
fn a_refused_sender_keeps_the_mail_until_somebody_corrects_it() {
    let mut sandbox = Sandbox::new().with("TERMITARY_MAIL_FROM", "wrong@example.com");
    let Some((server, port)) = server(&sandbox) else {
        return;
    };
    sandbox.set("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    let mut worker = sandbox.start(&["worker"]).works();
    publish_user(&sandbox, "ada@example.com");
    worker.says("TERMITARY_MAIL_FROM");
    worker.stop();
    assert_eq!(sandbox.count("users.send-welcome", "pending"), 1);
    assert_eq!(sandbox.count("users.send-welcome", "dead"), 0);

    sandbox.set("TERMITARY_MAIL_FROM", "team@example.com");
    let _worker = sandbox.start(&["worker"]).works();
    eventually("the mail arrives", || received(&server).len() == 1);
}

/// Mails that one worker sends at a time: the concurrency of its subscription.
const IN_FLIGHT: usize = 8;

/// Each mail arrives once. Those that the server had and the dead worker did
/// not know of arrive twice, under the same `Message-ID`.
fn a_worker_dies_while_it_sends(mut sandbox: Sandbox) {
    let Some((server, port)) = server_answering(&sandbox, 12) else {
        return;
    };
    sandbox.set("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    sandbox.ok(&["migrate"]);
    let events: Vec<_> = (0..40)
        .map(|n| publish_user(&sandbox, &format!("user{n}@example.com")))
        .collect();
    let victim = sandbox.start(&["worker"]).works();
    eventually("twelve are sent, and eight are being sent", || {
        received(&server).len() == 12 + IN_FLIGHT
            && sandbox.count("users.send-welcome", "done") == 12
    });
    victim.kill();
    std::fs::write(sandbox.path("go"), "").unwrap();
    let _worker = sandbox.start(&["worker"]).works();
    eventually("every mail is there", || copies(&server).len() == 40);
    sandbox.settled();
    assert_eq!(sandbox.count("users.send-welcome", "done"), 40);

    let copies = copies(&server);
    assert!(
        events
            .iter()
            .all(|event| copies.contains_key(&format!("{event}.users.send-welcome"))),
        "{copies:?}"
    );
    let mut counts: Vec<_> = copies.into_values().collect();
    counts.sort_unstable();
    let expected = [vec![1; 40 - IN_FLIGHT], vec![2; IN_FLIGHT]].concat();
    assert_eq!(counts, expected);
}

/// Number of copies of each mail, by the first part of its `Message-ID`.
fn copies(server: &Process) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for mail in received(server) {
        let text = mail["text"].as_str().unwrap();
        let id = text.split("Message-ID: <").nth(1).unwrap();
        let id = id.split('@').next().unwrap().to_owned();
        *copies.entry(id).or_default() += 1;
    }
    copies
}

#[test]
fn a_worker_killed_while_it_sends_mail_on_sqlite_repeats_only_what_was_in_flight() {
    a_worker_dies_while_it_sends(Sandbox::new());
}

#[test]
fn a_worker_killed_while_it_sends_mail_over_redis_repeats_only_what_was_in_flight() {
    if let Some((sandbox, _redis)) = with_redis() {
        a_worker_dies_while_it_sends(sandbox);
    }
}
