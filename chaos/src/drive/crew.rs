//! Starts, signals and restarts the processes. The driver is the only one that knows them, and it
//! ends only processes that it started.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Worker,
    Publisher,
}

/// A place for one process at a time.
struct Slot {
    kind: Kind,
    /// The port of Redis for this process.
    redis: Option<u16>,
    child: Option<Child>,
    /// The name of its history.
    name: String,
    /// The file with the error of its clock.
    clock: Option<PathBuf>,
}

/// All processes.
pub(super) struct Crew {
    slots: Vec<Slot>,
    folder: PathBuf,
    arguments: Vec<String>,
    publish: Vec<String>,
    planted: Option<String>,
    started: u64,
    /// Processes that exited by themselves since the last check, with their status.
    pub(super) ended: Vec<(String, String)>,
}

impl Crew {
    /// `arguments` go to every process, `publish` to publishers.
    pub(super) fn new(
        folder: PathBuf,
        arguments: Vec<String>,
        publish: Vec<String>,
        planted: Option<String>,
    ) -> Self {
        Self {
            slots: Vec::new(),
            folder,
            arguments,
            publish,
            planted,
            started: 0,
            ended: Vec::new(),
        }
    }

    /// Adds an empty place; returns its number.
    pub(super) fn add(&mut self, kind: Kind, redis: Option<u16>, clock: Option<PathBuf>) -> usize {
        self.slots.push(Slot {
            kind,
            redis,
            child: None,
            name: String::new(),
            clock,
        });
        self.slots.len() - 1
    }

    /// The numbers of all places of a kind.
    pub(super) fn of(&self, kind: Kind) -> Vec<usize> {
        (0..self.slots.len())
            .filter(|&i| self.slots[i].kind == kind)
            .collect()
    }

    /// The place whose process has its own clock.
    pub(super) fn with_clock(&self) -> Option<(usize, PathBuf)> {
        let mut slots = self.slots.iter().enumerate();
        slots.find_map(|(i, slot)| Some((i, slot.clock.clone()?)))
    }

    pub(super) fn name(&self, slot: usize) -> &str {
        &self.slots[slot].name
    }

    /// Starts a fresh process in an empty place.
    pub(super) fn start(&mut self, slot: usize) -> Result<()> {
        self.started += 1;
        let kind = self.slots[slot].kind;
        let role = if kind == Kind::Worker {
            "worker"
        } else {
            "publisher"
        };
        let name = format!("{role}-{}", self.started);
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(role)
            .args(&self.arguments)
            .arg("--history")
            .arg(file("jsonl"));
        if let Some(port) = self.slots[slot].redis {
            command.arg("--redis").arg(port.to_string());
        }
        if kind == Kind::Publisher {
            command
                .args(&self.publish)
                .arg("--incarnation")
                .arg(self.started.to_string());
        }
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(planted) = &self.planted {
            command.env("TERMITARY_PLANTED_BUG", planted);
        }
        if let (Some(clock), Some(library)) = (&self.slots[slot].clock, fake_time()) {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", clock);
            command
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        // The end of its standard input tells a process that the driver is gone.
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command
            .stderr(File::create(file("log"))?)
            .kill_on_drop(true);
        let child = command.spawn().context("cannot start a process")?;
        self.slots[slot].child = Some(child);
        self.slots[slot].name = name;
        Ok(())
    }

    /// Sends SIGKILL and empties the place. Returns the name of the killed process.
    pub(super) async fn kill(&mut self, slot: usize) -> Result<Option<String>> {
        let Some(mut child) = self.slots[slot].child.take() else {
            return Ok(None);
        };
        child.kill().await.context("cannot kill a process")?;
        Ok(Some(self.slots[slot].name.clone()))
    }

    /// Sends a signal such as STOP or CONT.
    pub(super) async fn signal(&self, slot: usize, signal: &str) -> Result<()> {
        let Some(id) = self.slots[slot].child.as_ref().and_then(Child::id) else {
            return Ok(());
        };
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(id.to_string())
            .status()
            .await?;
        if !status.success() {
            bail!("cannot send {signal} to {}", self.slots[slot].name);
        }
        Ok(())
    }

    /// Starts missing processes; records those that exited without being killed.
    pub(super) fn supervise(&mut self) -> Result<()> {
        self.supervise_only(Kind::Worker)?;
        self.supervise_only(Kind::Publisher)
    }

    /// The same for one kind.
    pub(super) fn supervise_only(&mut self, kind: Kind) -> Result<()> {
        for slot in self.of(kind) {
            if let Some(child) = &mut self.slots[slot].child
                && let Some(status) = child.try_wait()?
            {
                self.ended
                    .push((self.slots[slot].name.clone(), status.to_string()));
                self.slots[slot].child = None;
            }
            if self.slots[slot].child.is_none() {
                self.start(slot)?;
            }
        }
        Ok(())
    }

    /// Sends SIGTERM to all processes of a kind. Kills those that do not exit in time, and returns
    /// their names.
    pub(super) async fn stop(&mut self, kind: Kind, patience: Duration) -> Result<Vec<String>> {
        let mut stubborn = Vec::new();
        for slot in self.of(kind) {
            // An exited process needs no signal.
            let _ = self.signal(slot, "TERM").await;
        }
        for slot in self.of(kind) {
            let Some(mut child) = self.slots[slot].child.take() else {
                continue;
            };
            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                child.kill().await?;
                stubborn.push(self.slots[slot].name.clone());
            }
        }
        Ok(stubborn)
    }

    /// The process ids of all that live.
    pub(super) fn ids(&self) -> Vec<u32> {
        let children = self.slots.iter().filter_map(|slot| slot.child.as_ref());
        children.filter_map(Child::id).collect()
    }
}

/// The library that gives a process a wrong clock, if it is installed.
pub(super) fn fake_time() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
    ];
    let paths = folders
        .iter()
        .map(|folder| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.exists())
}
