//! The worker processes, as the benchmark starts and controls them.

use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use crate::process::Process;
use crate::stage::Stage;
use crate::worker::{Farewell, Message, Spec};

/// The argument that starts this program as a worker process.
pub const ROLE: &str = "bench-worker";
/// The longest time that a worker may take to open everything, or to end.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Worker processes; killed when dropped.
pub(crate) struct Workers(Vec<WorkerProcess>);

struct WorkerProcess {
    child: Child,
    input: ChildStdin,
    id: u32,
    progress: Arc<Progress>,
    farewell: oneshot::Receiver<Farewell>,
}

#[derive(Default)]
struct Progress {
    handled: AtomicU64,
    ended: AtomicBool,
}

impl Workers {
    /// Starts `number` processes and waits until each has opened everything. They run
    /// in the scratch folder, where no `.env` changes their settings.
    pub(crate) async fn start(spec: &Spec, number: u64, stage: &Stage) -> anyhow::Result<Self> {
        let mut workers = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..number {
            let (worker, signal) = WorkerProcess::start(spec, stage).await?;
            workers.push(worker);
            ready.push(signal);
        }
        let all = futures_util::future::try_join_all(ready);
        match tokio::time::timeout(TIMEOUT, all).await {
            Ok(Ok(_)) => Ok(Self(workers)),
            Ok(Err(_)) => bail!("a worker process ended before it began"),
            Err(_) => bail!("a worker process was not ready after a minute"),
        }
    }

    /// Sends the start signal.
    pub(crate) async fn go(&mut self) -> anyhow::Result<()> {
        for worker in &mut self.0 {
            worker.send("go").await?;
        }
        Ok(())
    }

    /// The number of events that their handlers have seen. Fails if a process ended.
    pub(crate) fn handled(&self) -> anyhow::Result<u64> {
        if self
            .0
            .iter()
            .any(|worker| worker.progress.ended.load(Ordering::Acquire))
        {
            bail!("a worker process ended while it was measured");
        }
        let handled = |worker: &WorkerProcess| worker.progress.handled.load(Ordering::Acquire);
        Ok(self.0.iter().map(handled).sum())
    }

    /// Seconds of CPU that all of them used so far.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let used = |worker: &WorkerProcess| Process::Other(worker.id).cpu_seconds();
        self.0.iter().map(used).sum()
    }

    /// Lets them end; returns the last message of each.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Farewell>> {
        let mut farewells = Vec::new();
        for worker in self.0 {
            let farewell = tokio::time::timeout(TIMEOUT, worker.stop());
            farewells.push(farewell.await.context("a worker process does not end")??);
        }
        Ok(farewells)
    }
}

impl WorkerProcess {
    async fn start(spec: &Spec, stage: &Stage) -> anyhow::Result<(Self, oneshot::Receiver<()>)> {
        let mut child = command(stage)?
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
        let progress = Arc::<Progress>::default();
        let (ready_in, ready) = oneshot::channel();
        let (farewell_in, farewell) = oneshot::channel();
        tokio::spawn(listen(output, Arc::clone(&progress), ready_in, farewell_in));
        let mut worker = Self {
            child,
            input,
            id,
            progress,
            farewell,
        };
        worker.send(&serde_json::to_string(spec)?).await?;
        Ok((worker, ready))
    }

    async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let sent = self.input.write_all(line.as_bytes()).await;
        sent.context("a worker process does not read its input")
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

/// Starts this program again, with only the necessary settings of this process. It has a process
/// group of its own, so that Ctrl-C reaches only this process.
fn command(stage: &Stage) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command
        .arg(OsStr::new(ROLE))
        .current_dir(stage.scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for setting in &stage.environment.settings {
        command.env_remove(setting);
    }
    #[cfg(unix)]
    command.process_group(0);
    Ok(command)
}

/// Reads the messages of a worker process until it ends.
async fn listen(
    output: ChildStdout,
    progress: Arc<Progress>,
    ready: oneshot::Sender<()>,
    farewell: oneshot::Sender<Farewell>,
) {
    let (mut ready, mut farewell) = (Some(ready), Some(farewell));
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Message::Ready) => {
                // The receiver may have given up.
                let _ = ready.take().map(|signal| signal.send(()));
            }
            Ok(Message::Handled(handled)) => progress.handled.store(handled, Ordering::Release),
            Ok(Message::Farewell(last)) => {
                let _ = farewell.take().map(|signal| signal.send(last));
            }
            Err(error) => tracing::warn!(%error, "invalid message from a worker process"),
        }
    }
    progress.ended.store(true, Ordering::Release);
}
