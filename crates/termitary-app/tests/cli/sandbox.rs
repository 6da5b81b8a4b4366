//! A folder of its own for each test, and processes that end with it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The program. Under `nohup`, tests ignore SIGHUP, and their child processes would too.
fn program() -> Command {
    let program = env!("CARGO_BIN_EXE_termitary");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_none_or(|mask| mask & 1 == 0) {
        return Command::new(program);
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", program]);
    command
}

/// A working folder, and the environment that commands in it get.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Sandbox {
    /// An empty folder; a port that is free; a lease that ends soon.
    pub(crate) fn new() -> Self {
        let sandbox = Self {
            dir: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        };
        sandbox.with("PORT", "0").with("TERMITARY_LEASE", "2s")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command with nothing of the test's own environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().cloned());
        command
    }

    /// Runs to the end, which must come.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (id, (over, end)) = (child.id(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                send(id, "KILL");
            }
        });
        let output = child.wait_with_output().unwrap();
        drop::<std::sync::mpsc::Sender<()>>(over);
        output
    }

    /// Runs a command that must succeed; returns stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must exit with `code`; returns stderr.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(
            !text.contains("panicked") && !text.contains("stack backtrace"),
            "{text}"
        );
        text
    }

    /// The parsed output of `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Process {
        self.start_with(args, &[])
    }

    /// Starts a process with more environment.
    pub(crate) fn start_with(&self, args: &[&str], env: &[(&str, &str)]) -> Process {
        let mut command = self.command(args);
        command.envs(env.iter().copied());
        Process::spawn(command)
    }

    /// The `.eml` files so far.
    pub(crate) fn mails(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.path("mail")) else {
            return Vec::new();
        };
        folder
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "eml"))
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect()
    }

    /// A number of `termitary status --json` for one subscription.
    pub(crate) fn count(&self, subscription: &str, field: &str) -> u64 {
        let status = self.json(&["status", "--json"]);
        let subscriptions = status["subscriptions"].as_array().unwrap();
        let found = subscriptions.iter().find(|s| s["name"] == subscription);
        found.map_or(0, |s| s[field].as_u64().unwrap())
    }

    /// Waits until nothing waits or runs.
    pub(crate) fn settled(&self) {
        eventually("everything is handled", || {
            let status = self.json(&["status", "--json"]);
            let subscriptions = status["subscriptions"].as_array().unwrap().clone();
            subscriptions
                .iter()
                .all(|s| s["pending"] == 0 && s["leased"] == 0)
        });
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process with its output; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::as_set(command)
    }

    /// Starts a command with its output as configured.
    pub(crate) fn as_set(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, Arc::clone(&lines));
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, Arc::clone(&lines));
        }
        Self { child, lines }
    }

    /// Starts any program under the same guard.
    pub(crate) fn of(command: Command) -> Self {
        Self::spawn(command)
    }

    /// Everything it has said so far.
    pub(crate) fn said(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits until the process prints this; returns the line.
    pub(crate) fn says(&mut self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let found = self
                .lines
                .lock()
                .unwrap()
                .iter()
                .find(|line| line.contains(words))
                .cloned();
            if let Some(line) = found {
                return line;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                start.elapsed() < PATIENCE && ended.is_none(),
                "waited for `{words}` ({ended:?}): {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The port of the process's API, once it responds.
    pub(crate) fn port(&mut self) -> u16 {
        let line = self.says("/readyz");
        let port = line.rsplit(':').next().unwrap().trim_end_matches("/readyz");
        port.parse().unwrap()
    }

    /// Waits until the worker in it takes work.
    pub(crate) fn works(mut self) -> Self {
        self.says("worker started");
        self
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(send(self.child.id(), name));
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, which must end it well.
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.end();
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(output: impl std::io::Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// Sends a signal to a process that this test started.
pub(crate) fn send(id: u32, signal: &str) -> bool {
    let kill = format!("kill -{signal} {id}");
    Command::new("sh")
        .args(["-c", &kill])
        .status()
        .unwrap()
        .success()
}

/// Waits until `done` is true.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A file of the repository.
pub(crate) fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}
