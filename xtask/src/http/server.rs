//! The systems under load, each with its own database and Redis.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client;
use crate::workspace::make_folder;

const PATIENCE: Duration = Duration::from_secs(30);
/// The unit of CPU times in Linux's `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `termitary api`.
    Api,
    /// `termitary dev`: the API, and a worker that handles its events.
    Dev,
    Elysia,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Api, Self::Elysia, Self::Dev];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Api => "Termitary, API",
            Self::Dev => "Termitary, API and worker",
            Self::Elysia => "Elysia on Bun",
        }
    }
}

/// The program of the other system, and its runtime.
pub(super) struct Elysia {
    pub(super) bun: PathBuf,
    pub(super) script: PathBuf,
}

/// A running system; it is killed with its Redis when this value is dropped.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) token: String,
    child: Guard,
    _redis: Guard,
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub(super) fn start(
        kind: Kind,
        folder: &Path,
        program: &Path,
        elysia: &Elysia,
    ) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        make_folder(folder)?;
        let (redis_port, port) = (free_port()?, free_port()?);
        let redis = redis(folder, redis_port)?;
        let redis_url = format!("redis://127.0.0.1:{redis_port}");
        let mut command = match kind {
            Kind::Api | Kind::Dev => {
                let mut command = Command::new(program);
                command
                    .arg(if kind == Kind::Api { "api" } else { "dev" })
                    .env("DATABASE_URL", "sqlite://todo.db")
                    .env("REDIS_URL", &redis_url)
                    // One user makes all of them.
                    .env("TERMITARY_TODOS_PER_USER", "1000000000")
                    .env("PORT", port.to_string());
                command
            }
            Kind::Elysia => {
                let mut command = Command::new(&elysia.bun);
                command
                    .arg(&elysia.script)
                    .args(["todo.db", &port.to_string(), &redis_url]);
                command
            }
        };
        let output = folder.join("output");
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(folder.join("log"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", kind.name()))?;
        let mut child = Guard(child);
        wait(&mut child, port).with_context(|| kind.name())?;
        let token = match kind {
            Kind::Elysia => told_token(&output)?,
            Kind::Api | Kind::Dev => client::register(port)?,
        };
        Ok(Self {
            port,
            token,
            child,
            _redis: redis,
        })
    }

    /// CPU seconds of the system under load so far.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.0.id())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11);
        let user: f64 = times.next()?.parse().ok()?;
        let system: f64 = times.next()?.parse().ok()?;
        Some((user + system) / TICKS_PER_SECOND)
    }
}

fn redis(folder: &Path, port: u16) -> Result<Guard> {
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start redis-server")?;
    let mut redis = Guard(child);
    wait(&mut redis, port).context("redis-server")?;
    Ok(redis)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until it listens.
fn wait(process: &mut Guard, port: u16) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = process.0.try_wait()? {
            bail!("it exited at once ({status})");
        }
        if start.elapsed() > PATIENCE {
            bail!("it does not listen on port {port}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Reads the token that the Elysia program prints when it is ready.
fn told_token(output: &Path) -> Result<String> {
    let start = Instant::now();
    loop {
        let said = std::fs::read_to_string(output)?;
        if let Ok(line) = serde_json::from_str::<Value>(said.trim()) {
            return Ok(line["token"].as_str().context("no token")?.to_owned());
        }
        if start.elapsed() > PATIENCE {
            bail!("it printed no token: {said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
