//! DATABASE_URL names a file that is another program's.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use crate::sandbox::Sandbox;

/// Another program's database, and its bytes.
async fn theirs(sandbox: &Sandbox, sql: &'static str) -> Vec<u8> {
    let file = sandbox.path("termitary.db");
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    std::fs::read(file).unwrap()
}

const SHOP: &str = "CREATE TABLE orders (id INTEGER); CREATE TABLE users (id INTEGER, name TEXT); INSERT INTO users VALUES (1, 'Ada')";
/// Kept by the same tool that ours uses.
const MIGRATED: &str = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, installed_on TIMESTAMP, success BOOLEAN, checksum BLOB, execution_time BIGINT);
    INSERT INTO _sqlx_migrations VALUES (1, 'accounts', CURRENT_TIMESTAMP, TRUE, x'0102', 0);
    CREATE TABLE customers (id INTEGER)";

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_not_a_byte_of_it_changes() {
    for sql in [SHOP, MIGRATED] {
        for command in [
            &["dev"][..],
            &["api"],
            &["worker"],
            &["migrate"],
            &["status"],
            &["dead", "list"],
            &["publish", "todos.deleted", r#"{"id":"1","title":"x"}"#],
        ] {
            let sandbox = Sandbox::new();
            let before = theirs(&sandbox, sql).await;
            let text = sandbox.fails(2, command);
            for words in ["another program", "DATABASE_URL", "termitary.db"] {
                assert!(text.contains(words), "{command:?}: {text}");
            }
            let after = std::fs::read(sandbox.path("termitary.db")).unwrap();
            assert!(after == before, "{command:?} wrote into it");
        }
    }
}

#[tokio::test]
async fn a_ledger_whose_service_has_tables_of_our_names_gets_none_of_ours() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    theirs(
        &sandbox,
        "DROP TABLE _sqlx_migrations; DROP TABLE activity_viewers; DROP TABLE activity",
    )
    .await;
    let text = sandbox.fails(2, &["dev"]);
    assert!(text.contains("tables of another program"), "{text}");
    // Its ledger may be looked at.
    sandbox.ok(&["status"]);
}

#[tokio::test]
async fn a_command_that_only_looks_makes_no_ledger_in_an_empty_file() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("termitary.db"), "").unwrap();
    let text = sandbox.fails(2, &["status"]);
    assert!(text.contains("termitary migrate"), "{text}");
    assert!(
        std::fs::read(sandbox.path("termitary.db"))
            .unwrap()
            .is_empty()
    );
    sandbox.ok(&["migrate"]);
    sandbox.ok(&["status"]);
}
