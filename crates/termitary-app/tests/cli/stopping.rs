//! Stopping processes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Client;
use crate::sandbox::{Process, Sandbox, eventually};

#[test]
fn an_idle_process_stops_quickly_and_well() {
    for command in ["dev", "api", "worker"] {
        for signal in ["TERM", "INT", "HUP"] {
            let sandbox = Sandbox::new();
            let mut process = sandbox.start(&[command]);
            process.says("Ctrl-C stops");
            if command != "api" {
                process.says("worker started");
            }
            let start = Instant::now();
            process.signal(signal);
            assert!(
                process.end().success(),
                "{command} {signal}: {}",
                process.said()
            );
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{command} {signal}: {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn a_closing_terminal_stops_no_process_that_was_started_to_outlive_it() {
    let sandbox = Sandbox::new();
    let mut shell = Command::new("sh");
    let script = format!("trap '' HUP; exec {} api", env!("CARGO_BIN_EXE_termitary"));
    shell.args(["-c", &script]).current_dir(sandbox.path(""));
    shell.env("PORT", "0").stdin(Stdio::null());
    let mut api = Process::of(shell);
    let port = api.port();
    api.signal("HUP");
    let (status, answer) = Client::new(port).get("/readyz");
    assert_eq!((status, &answer["draining"]), (200, &Value::Bool(false)));
    api.stop();
}

#[test]
fn a_second_hangup_is_no_haste() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut worker = stuck(&sandbox, &silent, "2s");
    // A closing terminal sends one, and its shell another.
    worker.signal("HUP");
    worker.says("SIGHUP: stopping");
    worker.signal("HUP");
    assert!(worker.end().success(), "{}", worker.said());
    assert!(!worker.said().contains("ending at once"));
}

/// A worker in the middle of a mail to a server that never replies.
fn stuck(sandbox: &Sandbox, silent: &TcpListener, grace: &str) -> Process {
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let env = [
        ("SMTP_URL", url.as_str()),
        ("TERMITARY_SHUTDOWN_GRACE", grace),
    ];
    let worker = sandbox.start_with(&["worker"], &env).works();
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#,
    ]);
    eventually("it is in the middle of it", || {
        sandbox.count("users.send-welcome", "leased") == 1
    });
    worker
}

#[test]
fn work_that_does_not_finish_in_time_is_given_back_at_once() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let worker = stuck(&sandbox, &silent, "1s");
    let start = Instant::now();
    worker.stop();
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(10));
    assert_eq!(sandbox.count("users.send-welcome", "due"), 1);
    let _next = sandbox.start(&["worker"]).works();
    eventually("the mail is there", || sandbox.mails().len() == 1);
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut worker = stuck(&sandbox, &silent, "10m");
    worker.signal("TERM");
    worker.says("stopping");
    let start = Instant::now();
    worker.signal("TERM");
    worker.end();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let _next = sandbox.start(&["worker"]).works();
    eventually("the mail is there", || sandbox.mails().len() == 1);
}

#[test]
fn a_process_that_stops_says_that_it_is_not_ready_and_finishes_what_runs() {
    let sandbox = Sandbox::new();
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    assert_eq!(Client::new(port).get("/readyz").0, 200);
    let (head, body) = registration("ada@example.com");
    let mut running = TcpStream::connect(("127.0.0.1", port)).unwrap();
    running.write_all(head.as_bytes()).unwrap();
    // The API has begun with it: this comes when it wants the body.
    let mut wanted = [0; 25];
    running.read_exact(&mut wanted).unwrap();
    assert!(wanted.starts_with(b"HTTP/1.1 100"));

    api.signal("TERM");
    api.says("stopping");
    let (status, answer) = Client::new(port).get("/readyz");
    assert_eq!((status, &answer["draining"]), (503, &Value::Bool(true)));
    running.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    running.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(api.end().success());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// The head of a request that waits to be asked for its body, and the body.
fn registration(email: &str) -> (String, String) {
    let body = format!(r#"{{"email":"{email}","name":"Test","password":"a walk in the rain"}}"#);
    let head = format!(
        "POST /api/v1/auth/register HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head, body)
}

#[test]
fn logs_are_json_where_a_program_reads_them() {
    let sandbox = Sandbox::new().with("LOG_FORMAT", "json");
    let mut worker = sandbox.start(&["worker"]).works();
    worker.signal("TERM");
    assert!(worker.end().success());
    for line in worker.said().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            entry["level"].is_string() && entry["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn a_process_whose_logs_nobody_reads_any_more_still_stops() {
    for command in ["dev", "api", "worker"] {
        let sandbox = Sandbox::new();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut started = sandbox.command(&[command]);
        let mut child = started
            .stderr(writer)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The builder holds a copy of the writing end.
        drop(started);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert!(
            stdout
                .lines()
                .any(|line| line.unwrap().contains("Ctrl-C stops"))
        );
        drop(reader);
        let signal = format!("kill -TERM {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &signal])
                .status()
                .unwrap()
                .success()
        );
        let mut ended = None;
        for _ in 0..100 {
            ended = child.try_wait().unwrap();
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        assert!(
            ended.is_some_and(|status| status.success()),
            "{command}: {ended:?}"
        );
    }
}
