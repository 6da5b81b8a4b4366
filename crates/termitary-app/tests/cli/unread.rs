//! A stalled or closed reader of stdout or stderr stops nothing else.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::http::Client;
use crate::sandbox::{Process, Sandbox, eventually, free_port};

/// A pipe that another program keeps full until somebody reads.
struct Stuck {
    reader: PipeReader,
    writer: PipeWriter,
    filler: Child,
}

impl Stuck {
    fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let filler = Command::new("yes")
            .stdout(writer.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            reader,
            writer,
            filler,
        }
    }

    fn end(&self) -> PipeWriter {
        self.writer.try_clone().unwrap()
    }

    /// Continues to read, without the text that filled the pipe.
    fn lines(mut self) -> impl Iterator<Item = String> {
        self.filler.kill().unwrap();
        self.filler.wait().unwrap();
        BufReader::new(self.reader)
            .lines()
            .map(Result::unwrap)
            .filter(|line| line != "y")
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_api_nor_the_worker_nor_their_end() {
    for command in ["dev", "api", "worker"] {
        let sandbox = Sandbox::new().with("RUST_LOG", "debug");
        let log = Stuck::new();
        let mut started = sandbox.command(&[command]);
        started.stdout(Stdio::piped()).stderr(log.end());
        let mut process = Process::as_set(started);
        process.says("Ctrl-C stops");
        if command == "worker" {
            let ada = r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#;
            sandbox.ok(&["publish", "users.created", ada]);
        } else {
            let client = Client::register(process.port(), "ada@example.com");
            for _ in 0..100 {
                assert_eq!(client.get("/api/v1/todos").0, 200);
            }
        }
        if command != "api" {
            eventually("the worker works", || sandbox.mails().len() == 1);
        }
        process.stop();
        drop(log.lines());
    }
}

#[test]
fn lines_that_nobody_read_are_dropped_and_counted_and_told_when_the_reader_is_back() {
    let sandbox = Sandbox::new().with("RUST_LOG", "trace");
    let log = Stuck::new();
    let mut started = sandbox.command(&["api"]);
    started.stdout(Stdio::piped()).stderr(log.end());
    let mut api = Process::as_set(started);
    let client = Client::new(api.port());
    eventually("lines are dropped", || {
        for _ in 0..20 {
            client.get("/readyz");
        }
        let (_, metrics) = client.text("GET", "/metrics", None);
        metrics.contains("termitary_log_lines_dropped_total")
    });
    let mut lines = log.lines();
    assert!(lines.any(|line| line.contains("log lines were dropped: nobody read stderr")));
    std::thread::spawn(move || lines.count());
    api.stop();
}

#[test]
fn a_command_whose_reader_stands_still_can_be_stopped() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let out = Stuck::new();
    let mut tail = sandbox.command(&["tail"]);
    tail.stdout(out.end()).stderr(Stdio::piped());
    let mut tail = Process::as_set(tail);
    for _ in 0..10 {
        sandbox.ok(&["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#]);
        std::thread::sleep(Duration::from_millis(100));
    }
    tail.signal("TERM");
    assert!(tail.end().success());
    drop(out.lines());
}

/// The writing end of a pipe that nobody reads any more.
fn closed() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn a_server_whose_stdout_is_closed_serves() {
    let port = free_port();
    let sandbox = Sandbox::new().with("PORT", &port.to_string());
    let mut started = sandbox.command(&["dev"]);
    started.stdout(closed()).stderr(Stdio::piped());
    let mut dev = Process::as_set(started);
    dev.says("stdout is closed");
    eventually("it listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert_eq!(Client::new(port).get("/readyz").0, 200);
    dev.stop();
}

#[test]
fn a_command_whose_output_nobody_can_read_fails_and_one_whose_reader_has_enough_does_not() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let mut status = sandbox.command(&["status"]);
    status.stdout(closed()).stderr(Stdio::piped());
    let mut status = Process::as_set(status);
    assert_eq!(status.end().code(), Some(1));
    eventually("it says why", || status.said().contains("stdout is closed"));

    let script = format!(
        "set -o pipefail; {} events | head -1",
        env!("CARGO_BIN_EXE_termitary")
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).stdin(Stdio::null());
    let ended = shell.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn tail_ends_at_the_first_event_that_it_cannot_write() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let mut tail = sandbox.command(&["tail"]);
    tail.stdout(closed()).stderr(Stdio::piped());
    let mut tail = Process::as_set(tail);
    // `tail` shows only events after its start.
    std::thread::sleep(Duration::from_secs(2));
    sandbox.ok(&["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#]);
    assert_eq!(tail.end().code(), Some(1));
    eventually("it says why", || tail.said().contains("stdout is closed"));
}
