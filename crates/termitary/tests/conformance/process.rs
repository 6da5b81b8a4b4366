//! A worker as another process would be it: with a database handle, a broker
//! and a runtime of its own, so that it can end without a word.

use std::time::Duration;

use termitary::prelude::*;
use tokio::sync::oneshot;

use crate::stand::Stand;

/// What runs in a process here does not end by itself.
const GRACE: Duration = Duration::from_millis(50);

pub(crate) struct Process {
    stop: oneshot::Sender<()>,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Process {
    /// Registers and works, until ended one way or the other.
    pub(crate) fn start<S: Send + Sync + 'static>(
        stand: &Stand,
        registry: Registry<S>,
        state: S,
    ) -> Self {
        let address = stand.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let (kill, killed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let worker = Worker::new(address.open().await, registry)
                    .state(state)
                    .grace(GRACE);
                tokio::select! {
                    ended = worker.run(async { drop(stopped.await) }) => ended.unwrap(),
                    _ = killed => {}
                }
            });
            // With the runtime goes every task, in the middle of what it does.
        });
        Self { stop, kill, thread }
    }

    /// As SIGTERM would: what runs is released when the grace is over.
    pub(crate) fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
        drop(self.kill);
    }

    /// As SIGKILL would.
    pub(crate) fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
        drop(self.stop);
    }
}
