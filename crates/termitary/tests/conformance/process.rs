//! A worker as another process would be it: with a database handle, a broker
//! and a runtime of its own, so that it can end without a word.

use std::time::Duration;

use termitary::prelude::*;
use tokio::sync::oneshot;

use crate::stand::Stand;

pub(crate) struct Process {
    stop: Option<oneshot::Sender<()>>,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Process {
    /// Registers and works, until ended one way or the other.
    pub(crate) fn start<S: Send + Sync + 'static>(
        stand: &Stand,
        registry: Registry<S>,
        state: S,
        grace: Duration,
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
                    .grace(grace);
                tokio::select! {
                    ended = worker.run(async { drop(stopped.await) }) => ended.unwrap(),
                    _ = killed => {}
                }
            });
            // Dropping the runtime ends every task, in the middle of its work.
        });
        Self {
            stop: Some(stop),
            kill,
            thread,
        }
    }

    /// As SIGTERM would: it leases no more, and running handlers get the grace period.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    /// Waits for a process that was told to stop.
    pub(crate) fn join(self) {
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
