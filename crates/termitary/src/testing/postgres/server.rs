//! The process of a PostgreSQL server: its programs, user, folder, start and end.
//!
//! `xtask` compiles this file too, to start one server for all test programs of a run. It therefore
//! uses the standard library only.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The variable with the address of a server that the test programs of a run share, such as
/// `postgres://postgres@127.0.0.1:5432`.
pub(crate) const SHARED_URL: &str = "TERMITARY_TEST_POSTGRES_URL";

/// The settings of a server that tests share: its data may be lost, and many tests connect.
pub(crate) const SHARED_CONF: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "256MB"),
];

/// Time limit for one start of a server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Number of tries to find a free port: another program may be faster.
const PORTS: usize = 10;

/// Waits for the end of its standard input, which the operating system closes even if the test
/// program is killed. Then it ends the server and deletes the folder. The check of the command line
/// protects a foreign process that received the same id in the meantime.
const WATCH: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
pid=$(head -n 1 data/postmaster.pid 2> /dev/null)
if [ -n "$pid" ] && grep -qsF "$PWD" "/proc/$pid/cmdline" && kill -s QUIT "$pid"; then
    tries=0
    while [ -e data/postmaster.pid ] && [ $tries -lt 500 ]; do
        tries=$((tries + 1))
        sleep 0.02
    done
fi
folder=$PWD
cd / && rm -rf "$folder"
"#;

/// A server in a temporary folder, on a loopback port that was free. It ends when this is dropped
/// and when the process ends.
pub(crate) struct Server {
    folder: PathBuf,
    bin: PathBuf,
    user: Option<User>,
    port: u16,
    conf: Vec<String>,
    child: Option<Child>,
    watcher: Child,
}

impl Server {
    /// Creates a cluster and starts its server with these settings.
    pub(crate) fn start(conf: &[(&str, &str)]) -> Result<Self> {
        let bin = programs()?;
        let folder = make_folder()?;
        let watcher = watch(&folder)?;
        let mut server = Self {
            user: unprivileged(&folder)?,
            folder,
            bin,
            port: 0,
            conf: conf.iter().map(|(n, v)| format!("{n}={v}")).collect(),
            child: None,
            watcher,
        };
        server.initialise()?;
        for _ in 0..PORTS {
            server.port = free_port()?;
            if server.launch()? {
                return Ok(server);
            }
        }
        Err(server.failure())
    }

    /// Its URL without a database.
    pub(crate) fn address(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Sends this signal to the server (`INT` is the fast shutdown, `QUIT` the immediate one), and
    /// waits until it ended.
    pub(crate) fn end(&mut self, signal: &str) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let id = child.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$0" "$1""#, signal, &id])
            .status()?;
        if !sent.success() {
            return Err(Error::other(format!("cannot send SIG{signal} to {id}")));
        }
        child.wait().map(drop)
    }

    /// Starts it again on the same port and with its data.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let patience = Instant::now() + PATIENCE;
        self.end("INT")?;
        while !self.launch()? {
            if Instant::now() > patience {
                return Err(self.failure());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn initialise(&self) -> Result<()> {
        let output = self
            .command("initdb")
            .args(["-D", "data", "--username=postgres", "--auth=trust"])
            .args(["--locale=C", "--encoding=UTF8"])
            .args(["--no-sync", "--no-instructions"])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Error::other(format!("initdb failed: {text}")))
    }

    /// Starts the process and waits until it accepts connections. Returns `false` if it exited.
    fn launch(&mut self) -> Result<bool> {
        let log = self.log()?;
        let mut command = self.command("postgres");
        // The watcher recognises the process by the absolute path.
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .stdout(log.try_clone()?)
            .stderr(log);
        for setting in &self.conf {
            command.args(["-c", setting]);
        }
        let mut child = command.spawn()?;
        let patience = Instant::now() + PATIENCE;
        while !self.is_ready(child.id()) {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            if Instant::now() > patience {
                child.kill()?;
                child.wait()?;
                return Err(self.failure());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        Ok(true)
    }

    /// Returns whether this very process accepts connections, by the eighth line of its file.
    fn is_ready(&self, id: u32) -> bool {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(id.to_string().as_str())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// A program of PostgreSQL, as the user that owns the folder and apart from the terminal.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(user) = &self.user {
            command.uid(user.id).gid(user.group);
        }
        command
    }

    fn log(&self) -> Result<File> {
        let path = self.folder.join("log");
        OpenOptions::new().create(true).append(true).open(path)
    }

    /// The error of a start, with the end of the server's log.
    fn failure(&self) -> Error {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n");
        Error::other(format!("PostgreSQL does not start:\n{end}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A user of the system.
struct User {
    id: u32,
    group: u32,
}

/// Gives the folder to a user without rights if this process is root, because PostgreSQL refuses to
/// run as root.
fn unprivileged(folder: &Path) -> Result<Option<User>> {
    if std::fs::metadata(folder)?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let user = ["postgres", "nobody"]
        .iter()
        .find_map(|name| find_user(&users, name))
        .ok_or_else(|| Error::other("there is no user `postgres` and no user `nobody`"))?;
    std::os::unix::fs::chown(folder, Some(user.id), Some(user.group))?;
    Ok(Some(user))
}

fn find_user(users: &str, name: &str) -> Option<User> {
    let fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    Some(User {
        id: fields.get(2)?.parse().ok()?,
        group: fields.get(3)?.parse().ok()?,
    })
}

/// The folder with the programs of the server: `PG_BIN`, a folder of `PATH`, or the newest one of
/// Debian, which does not put them on the path.
pub(crate) fn programs() -> Result<PathBuf> {
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    debian.sort_unstable();
    named
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(debian.into_iter().rev().map(|(_, bin)| bin))
        .find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .ok_or_else(|| {
            Error::other(
                "initdb and postgres are neither in PATH, in PG_BIN nor in /usr/lib/postgresql: \
                 is PostgreSQL installed?",
            )
        })
}

/// Makes a folder that did not exist before.
fn make_folder() -> Result<PathBuf> {
    let id = std::process::id();
    for number in 0_u32.. {
        let name = format!("termitary-postgres-{id}-{number}");
        let folder = std::env::temp_dir().join(name);
        match std::fs::create_dir(&folder) {
            Ok(()) => return folder.canonicalize(),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::other("no name of a temporary folder is free"))
}

fn watch(folder: &Path) -> Result<Child> {
    Command::new("sh")
        .args(["-c", WATCH])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}
