//! Another process holds the database's write lock when ours starts: a backup,
//! a migration, or a process that was stopped in the middle of a transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use crate::http::Client;
use crate::sandbox::{Process, Sandbox};

const WAITS: &str = "another process holds the database's write lock";

/// Takes the lock and keeps it until dropped.
async fn lock(sandbox: &Sandbox) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(sandbox.path("termitary.db"))
        .create_if_missing(true);
    let mut stranger = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut stranger)
        .await
        .unwrap();
    stranger
}

/// Has a migrated database, and one that nobody has ever opened.
fn sandboxes() -> [Sandbox; 2] {
    let migrated = Sandbox::new();
    migrated.ok(&["migrate"]);
    [migrated, Sandbox::new()]
}

#[tokio::test]
async fn what_starts_while_the_database_is_locked_says_so_once_and_then_starts() {
    for sandbox in sandboxes() {
        let stranger = lock(&sandbox).await;
        let mut worker = sandbox.start(&["worker"]);
        let mut api = sandbox.start(&["api"]);
        worker.says(WAITS);
        api.says(WAITS);
        stranger.close().await.unwrap();
        let worker = worker.works();
        api.port();
        for process in [worker, api] {
            let said = process.stop();
            assert_eq!(said.matches(WAITS).count(), 1, "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_meet_a_locked_database_fail_together_and_the_process_stops_in_its_grace() {
    const REQUESTS: usize = 12;
    let sandbox = Sandbox::new().with("TERMITARY_SHUTDOWN_GRACE", "2s");
    let mut dev = sandbox.start(&["dev"]);
    let client = Arc::new(Client::register(dev.port(), "ada@example.com"));
    // Each request would also note that the session is used: another write.
    let mut stranger = lock(&sandbox).await;
    sqlx::query("UPDATE sessions SET last_used_us = last_used_us - 3600000000")
        .execute(&mut stranger)
        .await
        .unwrap();
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();
    let _stranger = lock(&sandbox).await;
    let began = Instant::now();
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| {
            let client = Arc::clone(&client);
            std::thread::spawn(move || {
                client.post("/api/v1/todos", &json!({ "title": format!("todo {n}") }))
            })
        })
        .collect();
    for request in requests {
        let (status, answer) = request.join().unwrap();
        assert_eq!(status, 503, "{answer}");
    }
    // One after the other they took half a minute and more.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let began = Instant::now();
    let said = dev.stop();
    let took = began.elapsed();
    // Each part of the process used to wait for the lock after the grace.
    assert!(took < Duration::from_secs(12), "{took:?}: {said}");
    assert!(said.contains("the database is locked"), "{said}");
}

#[tokio::test]
async fn what_waits_for_the_lock_stops_when_it_is_told_to() {
    for sandbox in sandboxes() {
        let _stranger = lock(&sandbox).await;
        let mut waiting = ["worker", "api", "dev"].map(|role| sandbox.start(&[role]));
        for process in &mut waiting {
            process.says(WAITS);
        }
        let _said = waiting.map(Process::stop);
    }
}
