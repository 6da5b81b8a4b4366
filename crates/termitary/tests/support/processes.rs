//! Real processes for tests: this test binary again, in another role.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The command that runs one test of this binary as a process of its own. It
/// ends when its standard input does: with us, at the latest.
pub(crate) fn role(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// In a role: ends the process when whoever started it is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut sink = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut sink);
        std::process::exit(0);
    });
}

/// A process that is started again whenever it dies.
pub(crate) struct Supervised {
    stop: Arc<AtomicBool>,
    deaths: Arc<AtomicU32>,
    keeper: Option<JoinHandle<()>>,
}

impl Supervised {
    pub(crate) fn start(mut command: Command) -> Self {
        let (stop, deaths) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&deaths));
        let keeper = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut child = command.spawn().unwrap();
                while child.try_wait().unwrap().is_none() {
                    if stopped.load(Ordering::SeqCst) {
                        end(&mut child);
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                AtomicU32::fetch_add(&counted, 1, Ordering::SeqCst);
            }
        });
        Self {
            stop,
            deaths,
            keeper: Some(keeper),
        }
    }

    pub(crate) fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::SeqCst)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
