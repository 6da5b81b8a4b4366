//! Signals: the first one drains, the second one ends at once.

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

/// The time for the last log lines after the second signal.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The two stages of stopping.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// Accept nothing new, and finish running work.
    pub(super) drain: CancellationToken,
    /// Abort running work.
    pub(super) kill: CancellationToken,
}

impl Stop {
    /// Listens for signals on a thread of its own, so that a handler that blocks its thread
    /// cannot keep the process from ending.
    pub(super) fn on_signals(grace: Duration) -> anyhow::Result<Self> {
        let stop = Self::default();
        let stages = stop.clone();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot listen for signals")?;
        let signals = {
            let _in_it = runtime.enter();
            Signals::listen().context("cannot listen for signals")?
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(stages.follow(signals, grace)))
            .context("cannot listen for signals")?;
        Ok(stop)
    }

    /// Acts on the signals, and logs after acting.
    async fn follow(self, mut signals: Signals, grace: Duration) {
        let name = signals.next().await;
        self.drain.cancel();
        tracing::info!(
            grace_seconds = grace.as_secs(),
            "{name}: stopping; a second signal ends at once"
        );
        let name = signals.next_urgent().await;
        self.kill.cancel();
        tracing::warn!("{name} again: ending at once");
        tokio::time::sleep(LAST_LINES).await;
        std::process::exit(1);
    }
}

/// Resolves at the first signal.
pub(super) async fn interrupted() -> anyhow::Result<()> {
    Signals::listen()?.next().await;
    Ok(())
}

#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// `None` if it is ignored, as under `nohup`.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if hangup_is_ignored() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// The next signal other than SIGHUP, which a closing terminal and its shell both send.
    async fn next_urgent(&mut self) -> &'static str {
        loop {
            match self.next().await {
                "SIGHUP" => {}
                urgent => return urgent,
            }
        }
    }
}

/// Returns true if the process was started to outlive its terminal. Only Linux tells;
/// elsewhere a closing terminal stops the process.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The lowest bit is signal 1, SIGHUP.
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same on every system")]
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }

    async fn next_urgent(&mut self) -> &'static str {
        self.next().await
    }
}
