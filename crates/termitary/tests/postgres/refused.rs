//! A server that refuses a program: the error says why, and what to do.

use termitary::prelude::*;
use termitary::testing::TestPostgres;

use crate::world::told;

async fn refused(url: &str) -> termitary::Error {
    match Db::open(url).await {
        Ok(_) => unreachable!("{url} was opened"),
        Err(error) => error,
    }
}

/// Refused for good, in words that contain these.
async fn is_invalid(url: &str, parts: &[&str]) {
    let error = refused(url).await;
    assert!(error.is_invalid(), "{url}: {error:?}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(!told(&error).contains("secret"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_a_password_or_a_database_that_is_wrong_is_named() {
    let server = TestPostgres::start();
    let run = async |sql: &'static str| {
        use sqlx::Connection as _;
        let url = server.url("postgres");
        let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    };
    run("CREATE ROLE app LOGIN PASSWORD 'right'; CREATE ROLE nobody_in LOGIN").await;
    run("CREATE DATABASE closed").await;
    run("REVOKE CONNECT ON DATABASE closed FROM PUBLIC").await;
    let hba = "host all app 127.0.0.1/32 scram-sha-256
        host all nobody_in 127.0.0.1/32 reject
        host all all 127.0.0.1/32 trust\n";
    std::fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
    run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let port = server.port();
    let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{port}/{database}");
    let password = ["user or the password", "DATABASE_URL"];
    is_invalid(&at("app:secret", "postgres"), &password).await;
    is_invalid(&at("app", "postgres"), &password).await;
    is_invalid(&at("stranger", "postgres"), &password).await;
    is_invalid(&at("nobody_in", "postgres"), &password).await;
    is_invalid(
        &at("postgres", "elsewhere"),
        &["has no such database", "createdb", "elsewhere"],
    )
    .await;
    is_invalid(&at("app:right", "closed"), &["rights", "termitary migrate"]).await;
    // It may connect, and make no schema.
    is_invalid(
        &at("app:right", "postgres"),
        &["rights", "termitary migrate"],
    )
    .await;
    is_invalid("postgres://secret@:x/y", &["DATABASE_URL", "postgres://"]).await;
}
