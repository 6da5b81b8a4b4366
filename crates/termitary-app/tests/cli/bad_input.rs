//! Bad input gets a message that names the cause and the remedy, and the exit code of the guilty
//! party.

use crate::sandbox::{Process, Sandbox};

/// The settings, and the words that the message must contain.
const BAD_SETTINGS: &[(&str, &str, &[&str])] = &[
    ("PORT", "http", &["PORT", "`http`", "3000"]),
    ("PORT", "65536", &["PORT", "65536"]),
    (
        "HOST",
        "no.such.host.invalid",
        &["HOST", "no.such.host.invalid", "127.0.0.1"],
    ),
    (
        "DATABASE_URL",
        "postgres://u:hunter2@db:port/x",
        &["DATABASE_URL", "PostgreSQL", "postgres://user"],
    ),
    (
        "DATABASE_URL",
        "mysql://u:hunter2@db/x",
        &["DATABASE_URL", "sqlite://", "postgres://"],
    ),
    (
        "DATABASE_URL",
        "termitary.db",
        &["DATABASE_URL", "sqlite://"],
    ),
    (
        "DATABASE_URL",
        "sqlite::memory:",
        &["DATABASE_URL", "memory"],
    ),
    (
        "DATABASE_URL",
        "sqlite:///no/such/folder/x.db",
        &["DATABASE_URL", "/no/such/folder/x.db", "folder"],
    ),
    (
        "REDIS_URL",
        "http://:hunter2@cache",
        &["REDIS_URL", "redis://"],
    ),
    (
        "REDIS_URL",
        "redis://:hunter2@cache:port",
        &["REDIS_URL", "redis://"],
    ),
    ("REDIS_PORT", "x", &["REDIS_PORT", "6379"]),
    ("REDIS_TLS", "maybe", &["REDIS_TLS", "true, "]),
    (
        "REDIS_PASSWORD",
        "hunter2",
        &["REDIS_PASSWORD", "REDIS_HOST"],
    ),
    (
        "SMTP_URL",
        "http://u:hunter2@mail",
        &["SMTP_URL", "smtp://"],
    ),
    (
        "TERMITARY_MAIL_FROM",
        "nobody",
        &["TERMITARY_MAIL_FROM", "nobody"],
    ),
    (
        "TERMITARY_PUBSUB_BRIDGE",
        "sideways",
        &["TERMITARY_PUBSUB_BRIDGE", "off, in, out, both"],
    ),
    (
        "TERMITARY_CORS_ORIGINS",
        "https://app.example.com,*",
        &["TERMITARY_CORS_ORIGINS", "`*`", "https://app.example.com"],
    ),
    (
        "TERMITARY_CORS_ORIGINS",
        "https://app.example.com/",
        &["TERMITARY_CORS_ORIGINS", "origin"],
    ),
    (
        "TERMITARY_CONNECTIONS",
        "0",
        &["TERMITARY_CONNECTIONS", "4096"],
    ),
    (
        "TERMITARY_CONNECTIONS_PER_ADDRESS",
        "many",
        &["TERMITARY_CONNECTIONS_PER_ADDRESS", "512"],
    ),
    (
        "TERMITARY_KEEP_ALIVE",
        "long",
        &["TERMITARY_KEEP_ALIVE", "25s"],
    ),
    (
        "TERMITARY_ACTIVITY_RETENTION",
        "0d",
        &["TERMITARY_ACTIVITY_RETENTION", "400d", "forever"],
    ),
    (
        "TERMITARY_TODOS_PER_USER",
        "0",
        &["TERMITARY_TODOS_PER_USER", "10000"],
    ),
    ("TERMITARY_ENV", "staging", &["TERMITARY_ENV", "production"]),
    (
        "TERMITARY_SHUTDOWN_GRACE",
        "soon",
        &["TERMITARY_SHUTDOWN_GRACE", "25s"],
    ),
    (
        "TERMITARY_PUBLIC_URL",
        "example.com",
        &["TERMITARY_PUBLIC_URL", "https://"],
    ),
    ("LOG_FORMAT", "xml", &["LOG_FORMAT", "pretty, json"]),
    ("RUST_LOG", "termitary=loud", &["RUST_LOG", "debug"]),
    (
        "REDIS_URL_FILE",
        "/no/such/file",
        &["REDIS_URL_FILE", "/no/such/file"],
    ),
];

#[test]
fn a_bad_setting_stops_the_process_with_two() {
    for (name, value, words) in BAD_SETTINGS {
        let text = Sandbox::new().with(name, value).fails(2, &["dev"]);
        for word in *words {
            assert!(
                text.contains(word),
                "{name}={value} should name {word}: {text}"
            );
        }
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(text.lines().count(), 1, "one line is enough: {text}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let sandbox = Sandbox::new().with("PORT", &port);
    for command in ["dev", "api"] {
        // It can become free: the units start again after 1, never after 2.
        let text = sandbox.fails(1, &[command]);
        assert!(text.contains(&port) && text.contains("PORT="), "{text}");
    }
    assert!(!sandbox.path("termitary.db").exists());
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let sandbox = Sandbox::new();
    std::fs::write(
        sandbox.path("termitary.db"),
        "these are my notes, not a database\n".repeat(100),
    )
    .unwrap();
    let text = sandbox.fails(2, &["migrate"]);
    assert!(
        text.contains("DATABASE_URL") && text.contains("termitary.db"),
        "{text}"
    );
    assert!(
        std::fs::read_to_string(sandbox.path("termitary.db"))
            .unwrap()
            .starts_with("these are my notes")
    );
}

#[test]
fn a_folder_in_place_of_the_database_is_named() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("termitary.db")).unwrap();
    assert!(sandbox.fails(2, &["worker"]).contains("termitary.db"));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_not_touched() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let db = sandbox.path("termitary.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&db);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, X'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    for command in ["dev", "api", "worker", "migrate"] {
        let text = sandbox.fails(2, &[command]);
        assert!(text.contains("newer version"), "{text}");
    }
}

#[test]
fn only_servers_and_migrate_make_a_database() {
    let sandbox = Sandbox::new();
    let deleted = r#"{"id":"1","title":"x"}"#;
    for args in [
        &["status"][..],
        &["dead", "list"],
        &["schedule", "list"],
        &["schedule", "run", "todos.overdue.check"],
        &["schedule", "pause", "todos.overdue.check"],
        &["subscription", "drop", "todos.old"],
        &["publish", "todos.deleted", deleted],
        &["publish", "--allow-unknown", "orders.paid", "{}"],
        &["user", "create", "ada@example.com"],
        &["user", "list"],
        &["user", "confirm", "ada@example.com"],
        &["tail"],
        &["health", "--worker"],
    ] {
        let text = sandbox.fails(2, args);
        assert!(
            text.contains("termitary.db") && text.contains("termitary migrate"),
            "{text}"
        );
    }
    assert!(!sandbox.path("termitary.db").exists());
}

#[test]
fn an_unknown_event_name_brings_the_nearest_ones() {
    let sandbox = Sandbox::new();
    let text = sandbox.fails(2, &["publish", "todo.created", "{}"]);
    assert!(
        text.contains("todos.created") && text.contains("--allow-unknown"),
        "{text}"
    );
    let text = sandbox.fails(2, &["publish", "Todos Created", "{}"]);
    assert!(text.contains("lower-case"), "{text}");
    assert!(!sandbox.path("termitary.db").exists());
    sandbox.ok(&["migrate"]);
    let id = sandbox.ok(&["publish", "--allow-unknown", "orders.paid", r#"{"any":1}"#]);
    assert_eq!(id.trim().len(), 36);
    assert_eq!(sandbox.json(&["status", "--json"])["events"], 1);
}

#[test]
fn a_payload_that_is_no_json_object_is_refused_with_the_place() {
    let sandbox = Sandbox::new();
    let text = sandbox.fails(2, &["publish", "todos.created", r#"{"id": "1", title}"#]);
    assert!(text.contains("line 1 column 13"), "{text}");
    assert!(
        sandbox
            .fails(2, &["publish", "todos.created", "[]"])
            .contains("object")
    );
    let text = sandbox.fails(2, &["publish", "todos.created", r#"{"id":"1"}"#]);
    assert!(text.contains("title"), "{text}");
    let text = sandbox.fails(2, &["publish", "todos.created", r#"{"id":1,"title":"x"}"#]);
    assert!(text.contains("`id`") && text.contains("string"), "{text}");
    sandbox.ok(&["migrate"]);
    let large = format!(r#"{{"id":"1","title":"{}"}}"#, "x".repeat(90_000));
    sandbox.ok(&["publish", "todos.created", &large]);
}

#[test]
fn a_payload_that_is_too_large_is_refused() {
    let sandbox = Sandbox::new();
    std::fs::write(
        sandbox.path("large.json"),
        format!(r#"{{"id":"1","title":"{}"}}"#, "x".repeat(300_000)),
    )
    .unwrap();
    let mut command = sandbox.command(&["publish", "todos.created", "-"]);
    let output = command
        .stdin(std::fs::File::open(sandbox.path("large.json")).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(crate::sandbox::stderr(&output).contains("262144"));
}

#[test]
fn an_unknown_schedule_brings_the_known_ones() {
    let sandbox = Sandbox::new();
    for verb in ["run", "pause", "resume"] {
        let text = sandbox.fails(2, &["schedule", verb, "todos.overdue"]);
        assert!(text.contains("todos.overdue.check"), "{text}");
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    let sandbox = Sandbox::new();
    for args in [
        &["nonsense"][..],
        &["publish"],
        &["dead", "explode"],
        &["tail", "--limit", "x"],
        &["--porrt", "1"],
    ] {
        sandbox.fails(2, args);
    }
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let sandbox = Sandbox::new();
    for args in [
        ["--redis-password", "hunter2", "status"],
        ["--redis-url", "redis://:hunter2@h", "status"],
        ["--smtp-url", "smtp://u:hunter2@h", "status"],
    ] {
        let text = sandbox.fails(2, &args);
        assert!(
            text.contains("_FILE") && !text.contains("hunter2"),
            "{text}"
        );
    }
    sandbox.ok(&["--database-url", "sqlite://other.db", "migrate"]);
    assert!(sandbox.path("other.db").exists());
}

#[test]
fn health_without_an_api_fails_and_says_where_it_asked() {
    let port = crate::sandbox::free_port().to_string();
    let text = Sandbox::new().with("PORT", &port).fails(1, &["health"]);
    assert!(text.contains(&port), "{text}");
}

#[test]
fn a_mail_server_that_refuses_connections_stops_nobody() {
    let port = crate::sandbox::free_port();
    let sandbox = Sandbox::new().with("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    let worker: Process = sandbox.start(&["worker"]).works();
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#,
    ]);
    crate::sandbox::eventually("the mail waits for its next attempt", || {
        sandbox.count("users.send-welcome", "pending") == 1
    });
    worker.stop();
    assert_eq!(sandbox.count("users.send-welcome", "pending"), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_told_as_that() {
    let sandbox = Sandbox::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = sandbox.command(&["events"]).stdout(full).output().unwrap();
    let text = crate::sandbox::stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to stdout: No space"), "{text}");
}
