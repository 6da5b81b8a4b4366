//! A real Redis for one test, on loopback.

use std::process::Command;

use crate::sandbox::{Process, Sandbox, free_port};

/// A Redis of its own; ends with the test.
pub(crate) struct Redis {
    pub(crate) port: u16,
    process: Option<Process>,
    args: Vec<String>,
}

impl Redis {
    /// None where redis-server is not installed, which `cargo xtask test` mends.
    pub(crate) fn start(sandbox: &Sandbox, args: &[&str]) -> Option<Self> {
        if Command::new("redis-server")
            .arg("--version")
            .output()
            .is_err()
        {
            assert!(
                std::env::var_os("CI").is_none(),
                "redis-server is not installed"
            );
            eprintln!("SKIPPED: this needs redis-server, which is not installed");
            return None;
        }
        let port = free_port();
        let folder = sandbox.path("");
        let mut all = vec!["--port".to_owned(), port.to_string()];
        all.extend(
            [
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ]
            .map(str::to_owned),
        );
        all.push(folder.display().to_string());
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut redis = Self {
            port,
            process: None,
            args: all,
        };
        redis.resume();
        Some(redis)
    }

    pub(crate) fn resume(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(&self.args);
        let mut process = Process::of(command);
        process.says("Ready to accept connections");
        self.process = Some(process);
    }

    /// Gone, with everything it held.
    pub(crate) fn lose(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap()
    }
}

/// A sandbox whose processes use a Redis of their own.
pub(crate) fn with_redis() -> Option<(Sandbox, Redis)> {
    let mut sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, &[])?;
    sandbox.set("REDIS_URL", &redis.url());
    Some((sandbox, redis))
}
