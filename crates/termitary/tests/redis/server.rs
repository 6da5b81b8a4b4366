//! A redis-server of one test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use termitary::broker::RedisConfig;

pub(crate) struct Server {
    port: u16,
    folder: TempDir,
    persistent: bool,
    child: Child,
}

impl Server {
    /// A server that forgets everything when it ends.
    pub(crate) fn start() -> Self {
        Self::open(false)
    }

    /// A server that writes an append-only file.
    pub(crate) fn persistent() -> Self {
        Self::open(true)
    }

    fn open(persistent: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(port, &folder, persistent);
        let server = Self {
            port,
            folder,
            persistent,
            child,
        };
        server.wait();
        server
    }

    /// Leases of half a second, so that a dead worker is noticed soon.
    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::host("127.0.0.1", self.port)
            .lease(Duration::from_millis(600))
            .reconcile_after(Duration::from_secs(2))
    }

    /// What an operator or another program would do.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let config =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again on the same port, with what the disk has.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, self.persistent);
        self.wait();
    }

    fn wait(&self) {
        let patience = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < patience, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, persistent: bool) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args(["--appendonly", if persistent { "yes" } else { "no" }])
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}
