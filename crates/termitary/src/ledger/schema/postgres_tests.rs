//! Making the ledger in a database that others use, too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::postgres::STEPS;
use crate::db::{Db, Options};
use crate::error::Error;
use crate::ledger;
use crate::prelude::*;
use crate::testing::{PostgresDatabase, TestPostgres, TestWorker};

#[derive(Serialize, Deserialize)]
struct Made {}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

async fn database() -> PostgresDatabase {
    let created = tokio::task::spawn_blocking(|| TestPostgres::shared().create_database());
    created.await.unwrap()
}

async fn run(database: &PostgresDatabase, sql: &str) {
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
}

async fn count(database: &PostgresDatabase, sql: &'static str) -> i64 {
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
}

async fn refused(database: &PostgresDatabase) -> Error {
    Db::open(database.url()).await.err().unwrap()
}

async fn in_schema(database: &PostgresDatabase, schema: &str) -> Db {
    let options = Options::default().schema(schema);
    Db::open_with(database.url(), options).await.unwrap()
}

async fn events(db: &Db) -> u64 {
    ledger::count_events(db).await.unwrap()
}

/// Publishes an event and has it handled.
async fn works(db: &Db) {
    let broker = Broker::sql(db.clone());
    let registry = Registry::new().on(subscribe("made", made));
    let worker = TestWorker::start(broker.clone(), registry, ()).await;
    broker.bus().publish(Made {}).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.publish(Made {}.id("once")).await.unwrap();
    tx.commit().await.unwrap();
    worker.settle().await;
    assert_eq!(worker.status().await.subscriptions[0].done, 2);
}

#[tokio::test]
async fn processes_that_start_at_once_on_an_empty_database_make_one_ledger() {
    let database = database().await;
    let opening = (0..8).map(|_| {
        let url = database.url().to_owned();
        tokio::spawn(async move { Db::open(&url).await })
    });
    let opening: Vec<_> = opening.collect();
    let mut ledgers = Vec::new();
    for opened in opening {
        ledgers.push(opened.await.unwrap().unwrap());
    }
    assert!(ledgers.iter().all(|db| db.ledger() == ledgers[0].ledger()));
    let versions = "SELECT count(*) FROM termitary.termitary_schema";
    assert_eq!(count(&database, versions).await, 1);
    works(&ledgers[7]).await;
}

#[tokio::test]
async fn a_role_that_cannot_create_anything_works_once_the_ledger_is_there() {
    let database = database().await;
    let role = format!("app_{}", uuid::Uuid::now_v7().simple());
    run(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {role}",
            name = database.name()
        ),
    )
    .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let early = Db::open(&url).await.err().unwrap();
    assert!(early.is_invalid(), "{early:?}");
    assert!(early.to_string().contains("rights"), "{early}");

    Db::open(database.url()).await.unwrap().close().await;
    run(
        &database,
        &format!(
            "GRANT USAGE ON SCHEMA termitary TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA termitary TO {role};
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA termitary TO {role}"
        ),
    )
    .await;
    let db = Db::open(&url).await.unwrap();
    works(&db).await;
    db.close().await;
    run(
        &database,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn tables_with_names_of_the_ledger_and_no_ledger_are_left_alone() {
    let database = database().await;
    run(
        &database,
        "CREATE SCHEMA termitary; CREATE TABLE termitary.termitary_events (id int)",
    )
    .await;
    let error = refused(&database).await;
    assert!(error.is_invalid(), "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("termitary_events): choose another schema"),
        "{said}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'termitary'";
    assert_eq!(count(&database, tables).await, 1);
}

#[tokio::test]
async fn a_ledger_of_a_newer_program_is_refused() {
    let database = database().await;
    let db = Db::open(database.url()).await.unwrap();
    run(
        &database,
        "UPDATE termitary.termitary_schema SET version = 99",
    )
    .await;
    let error = refused(&database).await;
    assert!(error.is_newer_schema(), "{error:?}");
    assert!(error.to_string().contains("schema version 99"), "{error}");
    assert!(!db.is_current().await.unwrap());
    let pending = Db::migration(database.url(), Options::default()).await;
    assert!(pending.err().unwrap().is_newer_schema());
}

#[tokio::test]
async fn two_schemas_keep_two_ledgers_of_one_database_apart() {
    let database = database().await;
    let (a, b) = (
        in_schema(&database, "a").await,
        in_schema(&database, "B \"b\"").await,
    );
    assert_ne!(a.ledger(), b.ledger());
    works(&a).await;
    assert_eq!((events(&a).await, events(&b).await), (2, 0));
    works(&b).await;
    assert_eq!((events(&a).await, events(&b).await), (2, 2));
    run(
        &database,
        "SELECT \"B \"\"b\"\"\".publish('things.made', '{}')",
    )
    .await;
    assert_eq!((events(&a).await, events(&b).await), (2, 3));
    let main = Db::open(database.url()).await.unwrap();
    assert_eq!(events(&main).await, 0);
}

#[tokio::test]
async fn a_ledger_that_another_one_would_hide_is_refused() {
    let database = database().await;
    in_schema(&database, "public").await.close().await;
    let error = refused(&database).await;
    assert!(error.is_invalid(), "{error:?}");
    let said = error.to_string();
    assert!(said.starts_with("schema public of "), "{said}");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'termitary'";
    assert_eq!(count(&database, made).await, 0);
    // A schema that was chosen comes first.
    works(&in_schema(&database, "mine").await).await;
}

#[tokio::test]
async fn the_text_of_a_migration_makes_the_ledger_that_opening_makes() {
    let database = database().await;
    let pending = async || {
        Db::migration(database.url(), Options::default())
            .await
            .unwrap()
    };
    let migration = pending().await.unwrap();
    assert_eq!((migration.from(), migration.to()), (0, STEPS.len()));
    assert_eq!(
        count(
            &database,
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'termitary'"
        )
        .await,
        0
    );
    run(&database, migration.sql()).await;
    assert!(pending().await.is_none());
    works(&Db::open(database.url()).await.unwrap()).await;
}
