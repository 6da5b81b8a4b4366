//! Separate processes on one PostgreSQL database.

use termitary::testing::{PostgresDatabase, TestPostgres};

use crate::http::Client;
use crate::redis_server::Redis;
use crate::sandbox::Sandbox;
use crate::two_workers::handle_each_event_once;

/// A sandbox whose processes use an empty database of their own.
fn with_postgres() -> (Sandbox, PostgresDatabase) {
    let database = TestPostgres::shared().create_database();
    let sandbox = Sandbox::new().with("DATABASE_URL", database.url());
    (sandbox, database)
}

#[test]
fn each_event_is_handled_once_per_subscription_on_postgresql() {
    let (sandbox, _database) = with_postgres();
    handle_each_event_once(&sandbox, "postgres");
    assert!(!sandbox.path("termitary.db").exists());
}

#[test]
fn each_event_is_handled_once_per_subscription_on_postgresql_and_redis() {
    let (mut sandbox, _database) = with_postgres();
    let Some(redis) = Redis::start(&sandbox, &[]) else {
        return;
    };
    sandbox.set("REDIS_URL", &redis.url());
    handle_each_event_once(&sandbox, "redis");
    assert!(!sandbox.path("termitary.db").exists());
}

#[test]
fn every_command_works_on_postgresql() {
    let (sandbox, database) = with_postgres();
    for args in [&["status"][..], &["tail"], &["user", "list"]] {
        let text = sandbox.fails(2, args);
        assert!(text.contains("termitary migrate"), "{text}");
    }
    // Several at once, as at a deployment.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| sandbox.ok(&["migrate"]));
        }
    });
    let done = sandbox.ok(&["migrate"]);
    assert!(
        done.contains(database.name()) && !done.contains("postgres@"),
        "{done}"
    );
    sandbox.ok(&["user", "create", "ada@example.com", "--admin"]);
    let users = sandbox.json(&["user", "list", "--json"]);
    assert_eq!(users[0]["email"], "ada@example.com");
    sandbox.ok(&["user", "logout", "ada@example.com"]);
    sandbox.ok(&["schedule", "pause", "todos.overdue.check"]);
    sandbox.ok(&["schedule", "resume", "todos.overdue.check"]);
    sandbox.ok(&["schedule", "run", "todos.overdue.check"]);
    sandbox.ok(&["schedule", "list"]);
    sandbox.ok(&["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#]);
    sandbox.ok(&["dead", "list"]);
    let status = sandbox.json(&["status", "--json"]);
    assert_eq!(status["events"], 3, "{status}");
    let mut dev = sandbox.start(&["dev"]);
    let port = dev.port();
    sandbox.settled();
    assert_eq!(sandbox.ok(&["health", "--worker"]).trim(), "ok");
    assert_eq!(Client::new(port).text("GET", "/readyz", None).0, 200);
    dev.stop();
    let text = sandbox.fails(2, &["bench"]);
    assert!(text.contains("SQLite"), "{text}");
}

#[test]
fn a_database_that_cannot_be_used_is_told_with_the_way_out() {
    let (mut sandbox, database) = with_postgres();
    let url = database.url().to_owned();
    let of = |user: &str| url.replace("postgres@", &format!("{user}:hunter2@"));
    let sql = format!(
        "CREATE ROLE guest_{name} LOGIN PASSWORD 'hunter2'; CREATE TABLE todos (id bigint)",
        name = database.name()
    );
    execute(&url, &sql);
    let cases = [
        (
            of(&format!("guest_{}", database.name())),
            "termitary migrate",
        ),
        (of("nobody_at_all"), "DATABASE_URL"),
        (format!("{}_not", of("postgres")), "createdb"),
        (url, "another program"),
    ];
    for (url, words) in cases {
        sandbox.set("DATABASE_URL", &url);
        for command in ["dev", "worker", "migrate"] {
            let text = sandbox.fails(2, &[command]);
            assert!(text.contains(words), "{command}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn a_server_that_is_down_is_waited_for_by_servers_alone() {
    let mut server = TestPostgres::start();
    let url = server.url("postgres");
    server.stop();
    let sandbox = Sandbox::new().with("DATABASE_URL", &url);
    for command in [
        &["migrate"][..],
        &["status"],
        &["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#],
    ] {
        let text = sandbox.fails(1, command);
        assert!(text.contains("does not respond"), "{text}");
    }
    let mut dev = sandbox.start(&["dev"]);
    dev.says("waiting for it");
    server.restart();
    let port = dev.port();
    let _ada = Client::register(port, "ada@example.com");
    let said = dev.stop();
    assert_eq!(said.matches("waiting for it").count(), 1, "{said}");
}

fn execute(url: &str, sql: &str) {
    use sqlx::Connection as _;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    });
}
