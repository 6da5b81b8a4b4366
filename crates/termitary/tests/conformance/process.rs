//! A worker as another process would be it: with a database handle, a broker
//! and a runtime of its own, so that it can end without a word.

use termitary::prelude::*;
use tokio::sync::oneshot;

use crate::stand::Stand;

pub(crate) struct Process {
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Process {
    /// Registers and works, until killed.
    pub(crate) fn start<S: Send + Sync + 'static>(
        stand: &Stand,
        registry: Registry<S>,
        state: S,
    ) -> Self {
        let address = stand.address();
        let (kill, killed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let worker = Worker::new(address.open().await, registry).state(state);
                tokio::select! {
                    ended = worker.run(std::future::pending()) => ended.unwrap(),
                    _ = killed => {}
                }
            });
            // With the runtime goes every task, in the middle of what it does.
        });
        Self { kill, thread }
    }

    /// As SIGKILL would.
    pub(crate) fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}
