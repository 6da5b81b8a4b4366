//! Servers and settings that can never work end a process with exit code 2.

use crate::redis_server::{Redis, with_redis};
use crate::sandbox::{Process, Sandbox, free_port};

/// Commands that start a role, and one that only checks.
const COMMANDS: [&[&str]; 3] = [&["api"], &["worker"], &["migrate"]];

fn refused(sandbox: &Sandbox, words: &[&str]) {
    for command in COMMANDS {
        let text = sandbox.fails(2, command);
        for word in words {
            assert!(text.contains(word), "{command:?}: {text}");
        }
    }
}

#[test]
fn a_node_of_a_cluster_is_refused_with_what_is_supported() {
    let mut sandbox = Sandbox::new();
    let Some(redis) = Redis::start(&sandbox, &["--cluster-enabled", "yes"]) else {
        return;
    };
    sandbox.set("REDIS_URL", &redis.url());
    refused(&sandbox, &["Cluster", "one Redis or Valkey server"]);
    sandbox.set("REDIS_DB", "1");
    refused(&sandbox, &["Cluster"]);
}

#[test]
fn a_sentinel_is_refused_with_what_is_supported() {
    let mut sandbox = Sandbox::new();
    if Redis::start(&sandbox, &[]).is_none() {
        return;
    }
    let (port, file) = (free_port().to_string(), sandbox.path("sentinel.conf"));
    std::fs::write(&file, "").unwrap();
    let mut command = std::process::Command::new("redis-server");
    command
        .arg(&file)
        .args(["--sentinel", "--bind", "127.0.0.1", "--port", &port]);
    let mut sentinel = Process::of(command);
    sentinel.says("Sentinel ID is");
    sandbox.set("REDIS_URL", &format!("redis://127.0.0.1:{port}"));
    refused(&sandbox, &["Sentinel", "address of the primary"]);
    sandbox.set("REDIS_DB", "1");
    refused(&sandbox, &["Sentinel"]);
}

#[test]
fn a_replica_is_refused_with_the_address_of_its_primary() {
    let mut sandbox = Sandbox::new();
    let Some(replica) = Redis::start(&sandbox, &["--replicaof", "127.0.0.1 1"]) else {
        return;
    };
    sandbox.set("REDIS_URL", &replica.url());
    refused(
        &sandbox,
        &["replica of 127.0.0.1:1", "address of the primary"],
    );
}

#[test]
fn a_database_that_redis_does_not_have_is_refused() {
    let Some((sandbox, _redis)) = with_redis() else {
        return;
    };
    refused(
        &sandbox.with("REDIS_DB", "99"),
        &["no database 99", "REDIS_DB"],
    );
}

#[test]
fn what_is_published_while_redis_refuses_the_password_is_refused_and_not_recorded() {
    let mut sandbox = Sandbox::new();
    let Some(redis) = Redis::start(&sandbox, &["--requirepass", "new"]) else {
        return;
    };
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port);
    let event = r#"{"id":"1","title":"Water the plants"}"#;
    sandbox.set("REDIS_URL", &url("new"));
    sandbox.ok(&["migrate"]);
    sandbox.ok(&["publish", "todos.created", event]);
    // In the middle of a rotation: Redis has another password than this command.
    sandbox.set("REDIS_URL", &url("old"));
    let text = sandbox.fails(2, &["publish", "todos.created", event]);
    assert!(text.contains("refuses this user or password"), "{text}");
    sandbox.set("REDIS_URL", &format!("redis://127.0.0.1:{}", redis.port));
    let text = sandbox.fails(2, &["publish", "todos.created", event]);
    assert!(
        text.contains("requires a password, and none is set. See REDIS_URL"),
        "{text}"
    );
    sandbox.set("REDIS_URL", &url("new"));
    assert_eq!(sandbox.json(&["status", "--json"])["events"], 1);
    sandbox.ok(&["publish", "todos.created", event]);
    assert_eq!(sandbox.json(&["status", "--json"])["events"], 2);
}

#[test]
fn a_second_database_file_on_one_redis_is_refused_with_the_ways_out() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let worker = sandbox.start(&["worker"]).works();
    let second = Sandbox::new().with("REDIS_URL", &redis.url());
    refused(
        &second,
        &[
            "another ledger",
            "termitary:ledger",
            "redis-cli DEL",
            "REDIS_DB",
        ],
    );
    // A command that only looks says it too, and the first one works on.
    let text = second.fails(2, &["status"]);
    assert!(text.contains("another ledger"), "{text}");
    sandbox.ok(&["status"]);
    let apart = second.with("REDIS_DB", "1");
    let other = apart.start(&["worker"]).works();
    other.stop();
    worker.stop();
}
