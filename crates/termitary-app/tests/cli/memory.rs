//! Memory that a flood of logins takes, and gives back or uses again.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Process, Sandbox};

const LOGINS: usize = 40;
const AT_ONCE: usize = 8;
/// Two hashes use 38 MiB; each further one that were kept would add 19.
const ALLOWED_KIB: u64 = 100 * 1024;

/// Resident memory of a process, in KiB.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn forty_logins_with_eight_at_once_take_the_memory_of_two() {
    let sandbox = Sandbox::new();
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let before = resident(&api);
    Client::register(port, "ada@example.com");
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..LOGINS / AT_ONCE {
                    let login =
                        json!({ "email": "ada@example.com", "password": "a walk in the rain" });
                    let (status, answer) = Client::new(port).post("/api/v1/auth/login", &login);
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    let grown = resident(&api).saturating_sub(before);
    assert!(grown < ALLOWED_KIB, "grown by {grown} KiB");
}
