//! Real processes for tests: this test binary again, in another role.

use std::process::{Command, Stdio};
use std::time::Duration;

/// The longest wait of a test before it fails.
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

/// In a role: ends the process when its parent is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut sink = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut sink);
        std::process::exit(0);
    });
}
