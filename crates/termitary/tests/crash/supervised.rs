//! A process that is started again whenever it dies.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

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
