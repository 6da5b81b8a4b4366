//! Separate processes on one SQLite file.

use std::net::TcpListener;

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Sandbox, eventually};
use crate::two_workers::handle_each_event_once;

#[test]
fn each_event_is_handled_once_per_subscription_with_two_workers() {
    handle_each_event_once(&Sandbox::new(), "sqlite");
}

#[test]
fn what_is_published_while_no_worker_runs_is_handled_later() {
    let sandbox = Sandbox::new();
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    Client::register(port, "ada@example.com");
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"eve@example.com","name":"Eve"}"#,
    ]);
    assert_eq!(sandbox.count("users.send-welcome", "pending"), 2);
    assert!(sandbox.mails().is_empty());
    let _worker = sandbox.start(&["worker"]);
    eventually("both mails are there", || sandbox.mails().len() == 2);
}

#[test]
fn a_worker_killed_in_the_middle_of_its_work_loses_nothing() {
    let sandbox = Sandbox::new();
    // A mail server that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let victim = sandbox
        .start_with(&["worker"], &[("SMTP_URL", &url)])
        .works();
    for n in 0..5 {
        let user = format!(r#"{{"id":"{n}","email":"user{n}@example.com","name":"U"}}"#);
        sandbox.ok(&["publish", "users.created", &user]);
    }
    eventually("all are in the middle of it", || {
        sandbox.count("users.send-welcome", "leased") == 5
    });
    victim.kill();
    let _worker = sandbox.start(&["worker"]).works();
    eventually("all mails are there", || sandbox.mails().len() == 5);
    sandbox.settled();
    assert_eq!(sandbox.count("users.send-welcome", "done"), 5);
    assert_eq!(sandbox.count("users.send-welcome", "dead"), 0);
}

#[test]
fn a_new_device_is_told_by_mail_once() {
    let sandbox = Sandbox::new();
    let _worker = sandbox.start(&["worker"]).works();
    let login = |agent: &str| {
        let id = "019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11";
        let event = json!({ "userId": id, "email": "ada@example.com", "ipAddress": "192.0.2.1", "userAgent": agent });
        sandbox.ok(&["publish", "users.login", &event.to_string()]);
        sandbox.settled();
        sandbox.mails().len()
    };
    assert_eq!(login("one"), 0, "the first login of all");
    assert_eq!(login("one"), 0, "the same device");
    assert_eq!(login("two"), 1, "a new one");
    assert_eq!(login("two"), 1, "known by now");
    assert!(sandbox.mails()[0].contains("new device"));
}

#[test]
fn the_audit_names_the_user_of_the_system_even_without_its_variables() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    sandbox.ok(&["schedule", "pause", "todos.overdue.check"]);
    let url = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let who: String = runtime.block_on(async {
        let db = termitary::Db::open(&url).await.unwrap();
        let mut reader = db.read().await.unwrap();
        let who = sqlx::query_scalar("SELECT who FROM termitary_audit");
        who.fetch_one(&mut *reader).await.unwrap()
    });
    let name = std::process::Command::new("id").arg("-un").output();
    let name = String::from_utf8(name.unwrap().stdout).unwrap();
    assert_eq!(who, format!("cli:{}", name.trim()));
}
