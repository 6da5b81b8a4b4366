//! The place of one system: an empty folder for its SQLite file, and its own redis-server on
//! loopback, without persistence.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::workspace::make_folder;

/// A folder, and a server if the system uses one. Both are removed when this value is dropped.
pub(crate) struct Place {
    folder: PathBuf,
    server: Option<Server>,
}

struct Server {
    child: Child,
    port: u16,
}

impl Place {
    /// Creates a new place in `scratch`.
    pub(crate) fn make(scratch: &Path, name: &str, redis: bool) -> Result<Self> {
        let folder = scratch.join(format!("{name}-{}", std::process::id()));
        make_folder(&folder)?;
        let mut place = Self {
            folder,
            server: None,
        };
        if redis {
            place.server = Some(Server::start(&place.folder)?);
        }
        place.empty()?;
        Ok(place)
    }

    /// Removes all stored data.
    pub(crate) fn empty(&self) -> Result<()> {
        for end in ["", "-wal", "-shm"] {
            let file = self.folder.join(format!("bench.db{end}"));
            if file.exists() {
                std::fs::remove_file(&file)?;
            }
        }
        if let Some(server) = &self.server {
            server.ask(&["FLUSHALL"])?;
        }
        Ok(())
    }

    /// The folder of the database.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The options that point a program at this place.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec![
            "--file".to_owned(),
            self.folder.join("bench.db").display().to_string(),
        ];
        if let Some(server) = &self.server {
            options.push("--url".to_owned());
            options.push(format!("redis://127.0.0.1:{}", server.port));
        }
        options
    }

    /// The settings that point Termitary at this place.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let file = self.folder.join("bench.db");
        let mut settings = vec![("DATABASE_URL", format!("sqlite://{}", file.display()))];
        if let Some(server) = &self.server {
            let url = format!("redis://127.0.0.1:{}", server.port);
            settings.push(("REDIS_URL", url));
        }
        settings
    }

    /// CPU seconds of the server so far.
    pub(crate) fn server_cpu(&self) -> Option<f64> {
        let info = self.server.as_ref()?.ask(&["INFO", "cpu"]).ok()?;
        let value = |name: &str| -> Option<f64> {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Some(value("used_cpu_sys:")? + value("used_cpu_user:")?)
    }

    /// Current memory of the server, in bytes.
    pub(crate) fn server_memory(&self) -> Option<u64> {
        let info = self.server.as_ref()?.ask(&["INFO", "memory"]).ok()?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"))?;
        line.trim().parse().ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    fn start(folder: &Path) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server")?;
        let server = Self { child, port };
        let start = Instant::now();
        while server.ask(&["PING"]).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                bail!("redis-server does not respond on port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut cli = Command::new("redis-cli");
        cli.args(["-e", "-p", &self.port.to_string()]).args(words);
        cli.stderr(Stdio::null());
        let output = cli.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("`{}` failed", command::shown(&cli));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
