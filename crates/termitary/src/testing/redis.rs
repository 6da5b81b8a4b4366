//! A redis-server of a test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::must;
use crate::broker::RedisConfig;
#[cfg(debug_assertions)]
use crate::broker::redis;

/// Time limit for the start of a server.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of tries to find a free port: another program may be faster.
const PORTS: usize = 10;

/// A real redis-server of this test's own: on a loopback port that was free,
/// in a temporary folder, ended when dropped. Needs `redis-server` on the path.
///
/// ```no_run
/// # use termitary::prelude::*;
/// use termitary::testing::{TestDb, TestRedis};
///
/// # async fn example() -> Result<(), termitary::Error> {
/// let (db, redis) = (TestDb::open().await, TestRedis::start());
/// let broker = Broker::redis(db.db().clone(), redis.config())?;
/// # Ok(()) }
/// ```
///
/// The manual clock controls the times that the ledger stores. The duration of a lease on a stream
/// follows the server's own clock: if a test waits for one to end, give the broker a short lease
/// with [`BrokerBuilder::lease`](crate::broker::BrokerBuilder::lease).
pub struct TestRedis {
    port: u16,
    folder: TempDir,
    persistent: bool,
    child: Child,
}

impl TestRedis {
    /// A server that forgets everything when it ends.
    ///
    /// # Panics
    /// If redis-server is not installed or does not start.
    pub fn start() -> Self {
        Self::open(false)
    }

    /// A server that writes an append-only file, which [`TestRedis::restart`]
    /// reads back.
    ///
    /// # Panics
    /// If redis-server is not installed or does not start.
    pub fn persistent() -> Self {
        Self::open(true)
    }

    fn open(persistent: bool) -> Self {
        let folder = must(tempfile::tempdir(), "a temporary folder");
        for _ in 0..PORTS {
            let port = free_port();
            let mut child = spawn(port, &folder, persistent);
            if serves(&mut child, port) {
                return Self {
                    port,
                    folder,
                    persistent,
                    child,
                };
            }
        }
        panic!("redis-server does not start: no port stays free");
    }

    /// The settings for a broker.
    pub fn config(&self) -> RedisConfig {
        RedisConfig::host("127.0.0.1", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it without a warning, as SIGKILL does.
    pub fn kill(&mut self) {
        must(self.child.kill(), "a server to kill");
        must(self.child.wait(), "a server that ends");
    }

    /// Starts it again after [`TestRedis::kill`], on the same port and with the data on disk.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            self.child = spawn(self.port, &self.folder, self.persistent);
            if serves(&mut self.child, self.port) {
                return;
            }
            assert!(Instant::now() < patience, "redis-server does not restart");
        }
    }
}

#[cfg(test)]
impl TestRedis {
    /// The length of its append-only file.
    pub(crate) fn written(&self) -> u64 {
        must(std::fs::metadata(self.file()), "an append-only file").len()
    }

    /// Starts it again with only the first `keep` bytes of its file, as after a power cut.
    pub(crate) fn lose_tail(&mut self, keep: u64) {
        self.kill();
        let file = must(
            std::fs::OpenOptions::new().write(true).open(self.file()),
            "an append-only file to open",
        );
        must(file.set_len(keep), "an append-only file to cut");
        self.restart();
    }

    fn file(&self) -> std::path::PathBuf {
        let folder = self.folder.path().join("appendonlydir");
        folder.join("appendonly.aof.1.incr.aof")
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[cfg(debug_assertions)]
        if let Some(wrong) = redis::refused_by_a_cluster() {
            assert!(std::thread::panicking(), "{wrong}");
        }
    }
}

fn free_port() -> u16 {
    let listener = must(TcpListener::bind(("127.0.0.1", 0)), "a loopback port");
    must(listener.local_addr(), "the address of a listener").port()
}

fn spawn(port: u16, folder: &TempDir, persistent: bool) -> Child {
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string()])
        .args(["--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", if persistent { "yes" } else { "no" }])
        // With `everysec` the server delays its writes, up to two seconds, while the disk is busy,
        // and a kill then loses confirmed writes.
        .args(["--appendfsync", "no"])
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    must(child, "redis-server (is it installed?)")
}

/// Waits until this very process responds on the port. Returns `false` if it exited because another
/// process has the port.
fn serves(child: &mut Child, port: u16) -> bool {
    let patience = Instant::now() + PATIENCE;
    loop {
        if must(child.try_wait(), "the state of a server").is_some() {
            return false;
        }
        if process_on(port) == Some(child.id()) {
            return true;
        }
        assert!(Instant::now() < patience, "redis-server does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process id of the server on the port, if one responds and has read its file.
fn process_on(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    // QUIT closes the connection after the reply, so it can be read to its end.
    stream.write_all(b"PING\r\nINFO server\r\nQUIT\r\n").ok()?;
    let mut info = String::new();
    stream.read_to_string(&mut info).ok()?;
    let mut lines = info.strip_prefix("+PONG")?.lines();
    lines
        .find_map(|line| line.strip_prefix("process_id:"))
        .and_then(|id| id.trim().parse().ok())
}
