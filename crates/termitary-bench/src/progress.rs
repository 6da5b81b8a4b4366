//! The progress of the measurements, on one line of a terminal.

use std::convert::Infallible;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(150);

/// Cheap to clone; prints nothing if stderr is not a terminal.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Inner>);

struct Inner {
    terminal: bool,
    step: Mutex<(String, u64)>,
    done: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            terminal: std::io::stderr().is_terminal(),
            step: Mutex::default(),
            done: AtomicU64::new(0),
        }))
    }

    /// Starts a step of `events` events; 0 if it has none to count.
    pub(crate) fn step(&self, what: &str, events: u64) {
        let mut step = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        *step = (what.to_owned(), events);
        self.0.done.store(0, Ordering::Relaxed);
    }

    /// Sets the number of finished events.
    pub(crate) fn done(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Shows the progress until dropped.
    pub(crate) async fn show(self) -> Infallible {
        if !self.0.terminal {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(EVERY).await;
            write(&self.line());
        }
    }

    fn line(&self) -> String {
        let step = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, events) = &*step;
        let done = self.0.done.load(Ordering::Relaxed);
        match events {
            0 => what.clone(),
            events => format!("{what}: {} of {events}", done.min(*events)),
        }
    }

    /// Clears the line.
    pub(crate) fn end(&self) {
        if self.0.terminal {
            write("");
        }
    }
}

fn write(text: &str) {
    // A closed stderr is no reason to stop.
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{text}");
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_how_far() {
        let progress = Progress::new();
        progress.step("publishing", 100);
        progress.done(120);
        assert_eq!(progress.line(), "publishing: 100 of 100");
        progress.step("cleaning up", 0);
        assert_eq!(progress.line(), "cleaning up");
    }
}
