//! The worker processes, from the benchmark's side.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::process::Process;
use super::worker::{Farewell, Spec, Word};
use crate::config::documented;

/// The name of the hidden role.
pub(in crate::cli) const ROLE: &str = "bench-worker";
/// How long a worker may take to open everything, and to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// Some worker processes; killed when dropped.
pub(super) struct Crew(Vec<Member>);

struct Member {
    child: Child,
    input: ChildStdin,
    id: u32,
    heard: Arc<Heard>,
    farewell: oneshot::Receiver<Farewell>,
}

#[derive(Default)]
struct Heard {
    handled: AtomicU64,
    ended: AtomicBool,
}

impl Crew {
    /// Starts `number` processes and waits until each has opened everything.
    /// They run in `folder`, where no `.env` changes their settings.
    pub(super) async fn start(spec: &Spec, number: u64, folder: &Path) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..number {
            let (member, signal) = Member::start(spec, folder).await?;
            members.push(member);
            ready.push(signal);
        }
        let all = futures_util::future::try_join_all(ready);
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(Ok(_)) => Ok(Self(members)),
            Ok(Err(_)) => bail!("a worker process ended before it began"),
            Err(_) => bail!("a worker process was not ready after a minute"),
        }
    }

    /// Tells them to begin.
    pub(super) async fn go(&mut self) -> anyhow::Result<()> {
        for member in &mut self.0 {
            member.tell("go").await?;
        }
        Ok(())
    }

    /// How many events their handlers have seen; an error where one is gone.
    pub(super) fn handled(&self) -> anyhow::Result<u64> {
        if self
            .0
            .iter()
            .any(|member| member.heard.ended.load(Ordering::Acquire))
        {
            bail!("a worker process ended while it was measured");
        }
        let handled = |member: &Member| member.heard.handled.load(Ordering::Acquire);
        Ok(self.0.iter().map(handled).sum())
    }

    /// Seconds of CPU that they used so far, all together.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let used = |member: &Member| Process::Other(member.id).cpu_seconds();
        self.0.iter().map(used).sum()
    }

    /// Lets them end; answers what each says at last.
    pub(super) async fn stop(self) -> anyhow::Result<Vec<Farewell>> {
        let mut farewells = Vec::new();
        for member in self.0 {
            let farewell = tokio::time::timeout(PATIENCE, member.stop());
            farewells.push(farewell.await.context("a worker process does not end")??);
        }
        Ok(farewells)
    }
}

impl Member {
    async fn start(spec: &Spec, folder: &Path) -> anyhow::Result<(Self, oneshot::Receiver<()>)> {
        let mut child = command(folder)?
            .spawn()
            .context("cannot start a worker process")?;
        let id = child.id().context("a worker process ended at once")?;
        let output = child
            .stdout
            .take()
            .context("a worker process without an output")?;
        let input = child
            .stdin
            .take()
            .context("a worker process without an input")?;
        let heard = Arc::<Heard>::default();
        let (ready_in, ready) = oneshot::channel();
        let (farewell_in, farewell) = oneshot::channel();
        tokio::spawn(hear(output, Arc::clone(&heard), ready_in, farewell_in));
        let mut member = Self {
            child,
            input,
            id,
            heard,
            farewell,
        };
        member.tell(&serde_json::to_string(spec)?).await?;
        Ok((member, ready))
    }

    async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let told = self.input.write_all(line.as_bytes()).await;
        told.context("a worker process does not listen")
    }

    async fn stop(self) -> anyhow::Result<Farewell> {
        let Self {
            mut child,
            input,
            farewell,
            ..
        } = self;
        drop(input);
        let farewell = farewell.await.context("a worker process ended badly")?;
        child.wait().await?;
        Ok(farewell)
    }
}

/// This program again, with none of the settings of this one: what it needs it
/// is told. In a group of its own, so that a Ctrl-C reaches us only.
fn command(folder: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command
        .arg(OsStr::new(ROLE))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for setting in documented() {
        command.env_remove(setting.variable);
    }
    #[cfg(unix)]
    command.process_group(0);
    Ok(command)
}

/// Ends with the process.
async fn hear(
    output: ChildStdout,
    heard: Arc<Heard>,
    ready: oneshot::Sender<()>,
    farewell: oneshot::Sender<Farewell>,
) {
    let (mut ready, mut farewell) = (Some(ready), Some(farewell));
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Word::Ready) => {
                // Whoever waited may have given up.
                let _ = ready.take().map(|signal| signal.send(()));
            }
            Ok(Word::Handled(handled)) => heard.handled.store(handled, Ordering::Release),
            Ok(Word::Farewell(last)) => {
                let _ = farewell.take().map(|signal| signal.send(last));
            }
            Err(error) => tracing::warn!(%error, "a worker process says what nobody understands"),
        }
    }
    heard.ended.store(true, Ordering::Release);
}
