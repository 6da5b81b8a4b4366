//! The redis-server of this run: on loopback, in its own folder, with an append-only file that is
//! synced every second.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};

pub(super) struct Server {
    pub(super) port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = folder.join("redis");
        std::fs::create_dir_all(&folder)?;
        let mut server = Self {
            port,
            folder,
            child: None,
        };
        server.restart().await?;
        Ok(server)
    }

    /// Starts the server unless it is running, and waits until it responds.
    pub(super) async fn restart(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("redis.log"))?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        command
            .args(["--appendfsync", "everysec", "--port"])
            .arg(self.port.to_string());
        command.arg("--dir").arg(&self.folder);
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        self.child = Some(
            command
                .spawn()
                .context("cannot start redis-server: is it installed?")?,
        );
        for _ in 0..500 {
            if self.command(&["PING"]).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("redis-server does not respond");
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Sends SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Removes the files of a killed server.
    pub(super) fn forget(&self) -> Result<()> {
        let files = self.folder.join("appendonlydir");
        if files.exists() {
            std::fs::remove_dir_all(files)?;
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<std::io::Result<std::fs::DirEntry>>> {
        let folder = self.folder.join("appendonlydir");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        Ok(std::fs::read_dir(folder)?.collect())
    }

    /// Cuts the end off a killed server's append-only file, as a power cut
    /// does.
    pub(super) fn cut_tail(&self, bytes: u64) -> Result<()> {
        for file in self.files()? {
            let path = file?.path();
            if path.to_string_lossy().ends_with(".incr.aof") {
                let file: File = OpenOptions::new().write(true).open(&path)?;
                let length = file.metadata()?.len();
                file.set_len(length.saturating_sub(bytes))?;
                return Ok(());
            }
        }
        // A second fault has removed its data.
        Ok(())
    }

    /// Runs one command, bypassing every proxy.
    pub(super) async fn command(&self, words: &[&str]) -> Result<redis::Value> {
        ask(self.port, words).await
    }
}

/// Runs one command on a new connection, with a long timeout: a busy machine must not end a run.
pub(super) async fn ask(port: u16, words: &[&str]) -> Result<redis::Value> {
    let patience = Duration::from_secs(10);
    let asked = async {
        let client = redis::Client::open(("127.0.0.1", port))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let mut connection: MultiplexedConnection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    };
    let answer: redis::RedisResult<redis::Value> = tokio::time::timeout(patience, asked)
        .await
        .context("no response")?;
    Ok(answer?)
}
