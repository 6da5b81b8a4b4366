//! Being told to stop: the first signal drains, the second ends at once.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long the last words may take after the second signal.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The two stages of stopping.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// Take nothing new, finish what runs.
    pub(super) drain: CancellationToken,
    /// Drop what runs.
    pub(super) kill: CancellationToken,
}

impl Stop {
    /// Listens for SIGTERM and Ctrl-C from now on.
    pub(super) fn on_signals(grace: Duration) -> anyhow::Result<Self> {
        let stop = Self::default();
        let mut signals = Signals::listen()?;
        let stages = stop.clone();
        tokio::spawn(async move {
            // Stop first, then say so: nothing that logging does may hold it up.
            let name = signals.next().await;
            stages.drain.cancel();
            tracing::info!(
                grace_seconds = grace.as_secs(),
                "{name}: stopping; a second signal ends at once"
            );
            let name = signals.next().await;
            stages.kill.cancel();
            tracing::warn!("{name} again: ending at once");
            tokio::time::sleep(LAST_WORDS).await;
            std::process::exit(1);
        });
        Ok(stop)
    }
}

/// Resolves when the process is told to stop.
pub(super) async fn interrupted() -> anyhow::Result<()> {
    Signals::listen()?.next().await;
    Ok(())
}

#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
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
}
