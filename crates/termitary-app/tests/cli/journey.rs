//! The first five minutes of a new user, and the user commands.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Sandbox, eventually};

#[test]
fn one_command_starts_everything_and_says_where_it_is() {
    let sandbox = Sandbox::new().with("REDIS_URL", "");
    let mut dev = sandbox.start(&[]);
    let port = dev.port();
    assert_eq!(Client::new(port).get("/readyz").0, 200);
    let said = dev.said();
    for words in [
        "sqlite://termitary.db",
        "/api/v1",
        "/docs",
        "curl",
        "termitary tail",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(sandbox.path("termitary.db").exists());
    let port = port.to_string();
    assert_eq!(sandbox.ok(&["--port", &port, "health"]), "ok\n");
    let ready = sandbox.json(&["--port", &port, "health", "--json"]);
    assert_eq!(ready["status"], "ready");
    dev.stop();
    sandbox.fails(1, &["--port", &port, "health"]);
}

#[test]
fn the_command_that_the_banner_offers_works() {
    let sandbox = Sandbox::new();
    let mut dev = sandbox.start(&["dev"]);
    let port = dev.port();
    dev.says("termitary tail");
    let said = dev.said();
    let offered = said.lines().find(|line| line.contains("-d '")).unwrap();
    let body = offered.split('\'').nth(1).unwrap();
    let (status, answer) = Client::new(port).post(
        "/api/v1/auth/register",
        &serde_json::from_str(body).unwrap(),
    );
    assert_eq!(status, 201, "{answer}");
    // Runs the command as printed, in a shell without the program in its PATH.
    let events = said
        .lines()
        .find(|line| line.contains("/termitary events"))
        .unwrap();
    let shown = std::process::Command::new("sh")
        .args(["-c", events])
        .current_dir(sandbox.path("."))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("users.created"), "{events}: {shown}");
    dev.says("worker started");
    eventually("the welcome mail lies in its folder", || {
        sandbox.mails().len() == 1
    });
    assert!(sandbox.mails()[0].contains("To: ada@example.com"));
}

#[test]
fn from_registering_to_mails_and_events() {
    let sandbox = Sandbox::new();
    let mut dev = sandbox.start(&["dev"]);
    let port = dev.port();
    let mut tail = sandbox.start(&["tail", "--json", "todos.*", "--limit", "2"]);
    // `tail` shows only events after its start, so a first event proves that it runs.
    eventually("tail runs", || {
        sandbox.ok(&[
            "publish",
            "todos.deleted",
            r#"{"id":"1","title":"warm up"}"#,
        ]);
        std::thread::sleep(std::time::Duration::from_millis(200));
        tail.said().contains("todos.deleted")
    });
    let ada = Client::register(port, "ada@example.com");
    let bob = Client::register(port, "bob@example.com");
    let mut confirmation = None;
    eventually("Bob's welcome has its link", || {
        let sent = sandbox.mails();
        let welcome = sent.iter().find(|sent| sent.contains("To: bob@"));
        let parts = welcome.and_then(|welcome| {
            let mut parts = welcome.lines();
            parts.find_map(|part| part.split_once("/confirm/"))
        });
        confirmation = parts.map(|(_, token)| token.trim().to_owned());
        confirmation.is_some()
    });
    let token = json!({ "token": confirmation });
    let (status, answer) = Client::new(port).post("/api/v1/auth/email/confirm", &token);
    assert_eq!(status, 204, "{answer}");
    let body =
        json!({ "title": "Water the plants", "assignee": bob.user["id"], "priority": "high" });
    let (status, todo) = ada.post("/api/v1/todos", &body);
    assert_eq!(status, 201, "{todo}");
    eventually("two welcomes and one assignment are sent", || {
        sandbox.mails().len() == 3
    });
    let mails = sandbox.mails().join("\n");
    assert!(
        mails.contains("Subject: A todo was assigned to you")
            && mails.contains("> Water the plants"),
        "{mails}"
    );
    sandbox.settled();
    let (_, feed) = ada.get("/api/v1/activity");
    assert!(
        feed["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|item| item["event"] == "todos.created"),
        "{feed}"
    );
    assert!(tail.end().success());
    let line = tail
        .said()
        .lines()
        .find(|line| line.contains("Water"))
        .map(str::to_owned);
    if let Some(line) = line {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "todos.created");
        assert_eq!(event["data"]["id"], todo["id"]);
    }
    assert_eq!(
        ada.get("/api/v1/todos").1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_published_event_can_be_tailed_as_a_cloudevent() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let mut tail = sandbox.start(&["tail", "--json", "--limit", "1", "todos.*"]);
    let mut ids = Vec::new();
    eventually("tail sees one", || {
        sandbox.ok(&[
            "publish",
            "users.deleted",
            r#"{"id":"1","email":"a@example.com"}"#,
        ]);
        ids.push(
            sandbox
                .ok(&["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#])
                .trim()
                .to_owned(),
        );
        !tail.said().is_empty()
    });
    assert!(tail.end().success());
    let event: serde_json::Value = serde_json::from_str(&tail.said()).unwrap();
    assert!(ids.contains(&event["id"].as_str().unwrap().to_owned()));
    assert_eq!(event["source"], "/termitary/todo");
    assert_eq!(event["data"], json!({ "id": "1", "title": "x" }));
}

#[test]
fn the_first_admin_is_made_on_the_command_line() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let said = sandbox.ok(&["user", "create", "root@example.com", "--admin"]);
    let password = said
        .lines()
        .find_map(|line| line.strip_prefix("password: "))
        .unwrap()
        .to_owned();
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let login = json!({ "email": "root@example.com", "password": password });
    let (status, answer) = Client::new(port).post("/api/v1/auth/login", &login);
    assert_eq!(
        (status, &answer["user"]["role"]),
        (200, &json!("admin")),
        "{answer}"
    );
    let text = sandbox.fails(1, &["user", "create", "root@example.com"]);
    assert!(text.contains("root@example.com"), "{text}");
    sandbox.fails(2, &["user", "create", "not an address"]);
}

#[test]
fn a_password_comes_from_stdin_and_is_not_printed() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    std::fs::write(sandbox.path("password"), "a walk in the rain\n").unwrap();
    let create = |json: &str, email: &str| {
        let mut command = sandbox.command(&["user", "create", email, "--password-stdin", json]);
        let output = command
            .stdin(std::fs::File::open(sandbox.path("password")).unwrap())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            crate::sandbox::stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let answer: serde_json::Value =
        serde_json::from_str(&create("--json", "a@example.com")).unwrap();
    assert_eq!(
        (&answer["role"], &answer["password"]),
        (&json!("user"), &serde_json::Value::Null)
    );
    assert!(!create("--admin", "b@example.com").contains("a walk"));
    sandbox.fails(2, &["user", "create", "c@example.com", "--password-stdin"]);
}
