//! An API and two workers, whatever the database and whatever carries the deliveries.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Sandbox, eventually};

/// Each event is handled once per subscription; `status` names the workers' mode.
pub(crate) fn handle_each_event_once(sandbox: &Sandbox, mode: &str) {
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let workers = [
        sandbox.start(&["worker"]).works(),
        sandbox.start(&["worker"]).works(),
    ];
    let ada = Client::register(port, "ada@example.com");
    let bob = Client::register(port, "bob@example.com");
    sandbox.ok(&["user", "confirm", "bob@example.com"]);
    for n in 0..40 {
        let body = json!({ "title": format!("Todo {n}"), "assignee": bob.user["id"] });
        assert_eq!(ada.post("/api/v1/todos", &body).0, 201);
    }
    eventually("all mails are there", || sandbox.mails().len() == 42);
    sandbox.settled();
    assert_eq!(sandbox.count("users.send-welcome", "done"), 2);
    assert_eq!(sandbox.count("todos.mail-assignment", "done"), 40);
    let status = sandbox.json(&["status", "--json"]);
    assert_eq!(status["mode"], mode);
    assert_eq!(status["workers"].as_array().unwrap().len(), 2);
    for worker in workers {
        worker.stop();
    }
    api.stop();
    assert_eq!(sandbox.mails().len(), 42);
}
