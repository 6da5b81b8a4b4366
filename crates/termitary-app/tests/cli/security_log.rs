//! The API's log of attacks and of changes to accounts.

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Process, Sandbox, eventually};

/// The lines of the security log with this event.
fn lines(api: &Process, event: &str) -> Vec<Value> {
    let said = api.said();
    let all = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    all.filter(|line: &Value| line["security.event"] == event)
        .collect()
}

fn one_line(api: &Process, event: &str) -> Value {
    eventually(event, || !lines(api, event).is_empty());
    lines(api, event).remove(0)
}

/// The port of an API that logs JSON.
fn port(api: &mut Process) -> u16 {
    let line: Value = serde_json::from_str(&api.says("listening")).unwrap();
    let url = line["listening"].as_str().unwrap();
    url.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn attacks_and_changes_are_one_line_each_with_the_source_and_no_address() {
    let sandbox = Sandbox::new()
        .with("LOG_FORMAT", "json")
        .with("TERMITARY_TRUSTED_PROXIES", "1");
    sandbox.ok(&["migrate"]);
    let created = sandbox.json(&["user", "create", "root@example.com", "--admin", "--json"]);
    let mut api = sandbox.start(&["api"]);
    let port = port(&mut api);
    let from = |address: &str| Client::new(port).header(&format!("x-forwarded-for: {address}"));
    let ada = Client::register(port, "ada@example.com");
    let id = ada.user["id"].clone();

    let wrong = json!({ "email": "ada@example.com", "password": "a wrong guess" });
    from("203.0.113.9:4711").post("/api/v1/auth/login", &wrong);
    let line = one_line(&api, "login_failed");
    assert_eq!(
        (&line["source.ip"], &line["user.id"]),
        (&json!("203.0.113.9"), &id)
    );
    for _ in 0..10 {
        from("203.0.113.9").post("/api/v1/auth/login", &wrong);
    }
    assert_eq!(one_line(&api, "limit_hit")["source.ip"], "203.0.113.9");

    assert_eq!(ada.get("/api/v1/users").0, 403);
    let line = one_line(&api, "refused");
    assert_eq!(
        (&line["source.ip"], &line["user.id"]),
        (&json!("127.0.0.1"), &id)
    );

    let password = created["password"].clone();
    let admin = json!({ "email": "root@example.com", "password": password });
    let (status, answer) = from("198.51.100.7").post("/api/v1/auth/login", &admin);
    assert_eq!(status, 200, "{answer}");
    let token = answer["token"].as_str().unwrap();
    let root = Client::new(port).header(&format!("authorization: Bearer {token}"));
    let path = format!("/api/v1/users/{}", id.as_str().unwrap());
    let promotion = json!({ "role": "admin" });
    assert_eq!(root.send("PATCH", &path, Some(&promotion)).0, 200);
    let line = one_line(&api, "role_changed");
    assert_eq!(
        (&line["user.id"], &line["actor.id"]),
        (&id, &answer["user"]["id"])
    );

    assert_eq!(root.post("/api/v1/auth/logout", &json!({})).0, 204);
    one_line(&api, "session_ended");
    assert_eq!(root.get("/api/v1/auth/me").0, 401);
    eventually("the dead token is refused", || {
        lines(&api, "refused").len() == 2
    });
    let said = api.stop();
    for secret in [
        "example.com",
        token,
        "a wrong guess",
        password.as_str().unwrap(),
    ] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
}

#[test]
fn a_flood_of_guesses_is_counted_and_does_not_fill_the_log() {
    let sandbox = Sandbox::new().with("LOG_FORMAT", "json");
    let mut api = sandbox.start(&["api"]);
    let port = port(&mut api);
    for _ in 0..100 {
        let client = Client::new(port).header("authorization: Bearer tty_made_up");
        assert_eq!(client.get("/api/v1/auth/me").0, 401);
    }
    let said = api.stop();
    let refused = said.lines().filter(|line| line.contains("\"refused\""));
    // Twenty a minute: more only where a minute ended meanwhile.
    assert!((20..=60).contains(&refused.count()), "{said}");
}
