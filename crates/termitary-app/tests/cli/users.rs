//! The operator's commands for users.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Sandbox, eventually, stderr};

/// Runs a command with `typed` on its stdin.
fn with_stdin(sandbox: &Sandbox, args: &[&str], typed: &str) -> (Option<i32>, String) {
    let mut command = sandbox.command(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    (output.status.code(), said + &stderr(&output))
}

fn login(port: u16, password: &str) -> u16 {
    let body = json!({ "email": "ada@example.com", "password": password });
    Client::new(port).post("/api/v1/auth/login", &body).0
}

#[test]
fn an_operator_lists_users_ends_sessions_sets_passwords_roles_and_confirms() {
    let sandbox = Sandbox::new();
    let mut dev = sandbox.start(&["dev"]);
    let port = dev.port();
    let ada = Client::register(port, "ada@example.com");
    sandbox.ok(&["user", "create", "root@example.com", "--admin"]);

    let listed = sandbox.json(&["user", "list", "--json"]);
    let seen: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|user| {
            (
                user["email"].clone(),
                user["role"].clone(),
                user["emailConfirmed"].clone(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (json!("ada@example.com"), json!("user"), json!(false)),
            (json!("root@example.com"), json!("admin"), json!(true)),
        ]
    );
    let table = sandbox.ok(&["user", "list"]);
    assert!(
        table.starts_with("EMAIL") && table.contains("ada@example.com"),
        "{table}"
    );

    assert_eq!(ada.get("/api/v1/auth/me").0, 200);
    assert_eq!(
        sandbox.ok(&["user", "logout", "Ada@Example.com"]),
        "ended 1 session\n"
    );
    assert_eq!(ada.get("/api/v1/auth/me").0, 401);

    let set = ["user", "password", "ada@example.com", "--password-stdin"];
    let (code, said) = with_stdin(&sandbox, &set, "a walk in the sun\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("sun"), "{said}");
    assert_eq!(login(port, "a walk in the rain"), 401);
    assert_eq!(login(port, "a walk in the sun"), 200);
    // Without a terminal to ask on, the first line of stdin is it as well.
    let (code, said) = with_stdin(&sandbox, &set[..3], "a walk in the snow\n");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(login(port, "a walk in the snow"), 200);
    let made = sandbox.json(&[
        "user",
        "password",
        "ada@example.com",
        "--generate",
        "--json",
    ]);
    assert_eq!(login(port, made["password"].as_str().unwrap()), 200);
    for (typed, words) in [("\n", "stdin"), ("short\n", "password")] {
        let (code, said) = with_stdin(&sandbox, &set, typed);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }

    sandbox.ok(&["user", "role", "ada@example.com", "admin"]);
    sandbox.ok(&["user", "role", "root@example.com", "user"]);
    let said = sandbox.fails(1, &["user", "role", "ada@example.com", "user"]);
    assert!(said.contains("last admin"), "{said}");
    sandbox.ok(&["user", "confirm", "ada@example.com"]);
    let listed = sandbox.json(&["user", "list", "--json"]);
    assert_eq!(
        (
            &listed[0]["role"],
            &listed[0]["emailConfirmed"],
            &listed[1]["role"]
        ),
        (&json!("admin"), &Value::Bool(true), &json!("user"))
    );
    let said = sandbox.fails(2, &["user", "logout", "nobody@example.com"]);
    assert!(
        said.contains("nobody@example.com") && said.contains("user list"),
        "{said}"
    );
    eventually("the feed knows of the role", || {
        sandbox.count("activity.user-updated", "done") == 5
    });
    dev.stop();
}

/// Runs a command whose output goes to a full device; returns its exit code and stderr.
#[cfg(target_os = "linux")]
fn unshown(sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, String) {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = sandbox.command(args);
    let output = command.stdout(full.unwrap()).output().unwrap();
    (output.status.code(), stderr(&output))
}

#[cfg(target_os = "linux")]
#[test]
fn a_password_that_could_not_be_shown_can_be_set_again() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    for args in [
        &["user", "create", "ada@example.com"][..],
        &["user", "password", "ada@example.com", "--generate"],
    ] {
        for json in [&[][..], &["--json"]] {
            if json.len() == 1 && args[1] == "create" {
                continue;
            }
            let (code, said) = unshown(&sandbox, &[args, json].concat());
            assert_eq!(code, Some(1), "{said}");
            for words in ["No space", "user password ada@example.com --generate"] {
                assert!(said.contains(words), "{args:?}: {said}");
            }
        }
    }
    // A password that was given is not lost.
    let create = ["user", "create", "bob@example.com", "--password-stdin"];
    let (code, said) = with_stdin(&sandbox, &create, "a walk in the sun\n");
    assert_eq!(code, Some(0), "{said}");
}
