//! The ledger's tables on PostgreSQL: in a schema of their own, made by whoever comes
//! first while the others wait.

use sqlx::AssertSqlSafe;

use super::newer;
use crate::db::{Conn, Db};
use crate::engine::postgres::Engine;
use crate::error::Error;

/// One step per version: step n brings a schema from version n to n + 1.
/// Steps that have been released are never edited.
pub(super) const STEPS: &[&str] = &[
    include_str!("postgres/0001_ledger.sql"),
    include_str!("postgres/0002_publish.sql"),
];

/// Brings the schema to this code's version; refuses one from the future.
pub(super) async fn migrate(db: &Db, engine: &Engine) -> Result<(), Error> {
    let mut tx = db.begin_own().await?;
    run(&mut tx, prepare(engine)).await?;
    // Again, now that nobody else can be half-way.
    let at = recorded(&mut tx).await?;
    if at > STEPS.len() {
        return Err(newer(db, at, STEPS.len()));
    }
    if at == 0 {
        refuse_namesakes(&mut tx, db, engine).await?;
    }
    for step in &STEPS[at..] {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
    }
    run(&mut tx, record()).await?;
    tx.commit().await
}

/// The same for version `at`, as a text for who runs it by hand.
pub(super) fn script(engine: &Engine, at: usize) -> String {
    let steps = STEPS[at..].join("\n");
    format!(
        "BEGIN;\n{};\n\n{steps}\n{};\nCOMMIT;\n",
        prepare(engine),
        record()
    )
}

/// The version of the schema; 0 without a ledger.
pub(super) async fn version(db: &Db, engine: &Engine) -> Result<usize, Error> {
    let mut conn = db.read().await?;
    let own = format!("{}.termitary_schema", engine.quoted_schema());
    refuse_hidden(&mut conn, db, engine, &own).await?;
    let known: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(own)
        .fetch_one(&mut *conn)
        .await?;
    if known {
        return recorded(&mut conn).await;
    }
    Ok(0)
}

async fn recorded(conn: &mut Conn) -> Result<usize, Error> {
    let at: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(conn)
        .await?;
    Ok(at as usize)
}

async fn run(conn: &mut Conn, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}

/// Waits for others, and makes the schema, for this transaction the only one, and the
/// table of its version.
fn prepare(engine: &Engine) -> String {
    let schema = engine.quoted_schema();
    let lock = format!("termitary schema {}", engine.schema()).replace('\'', "''");
    format!(
        "SELECT pg_advisory_xact_lock(hashtextextended('{lock}', 0));
CREATE SCHEMA IF NOT EXISTS {schema};
SET LOCAL search_path TO {schema}, pg_temp;
CREATE TABLE IF NOT EXISTS termitary_schema (version bigint NOT NULL)"
    )
}

/// Records this code's version.
fn record() -> String {
    let version = STEPS.len();
    format!(
        "DELETE FROM termitary_schema;
INSERT INTO termitary_schema (version) VALUES ({version})"
    )
}

/// Refuses a schema without a ledger that has tables with names of the ledger.
async fn refuse_namesakes(conn: &mut Conn, db: &Db, engine: &Engine) -> Result<(), Error> {
    let names: Option<String> = sqlx::query_scalar(
        r"SELECT string_agg(tablename::text, ', ') FROM pg_tables
          WHERE schemaname = $1 AND tablename LIKE 'termitary\_%' AND tablename <> 'termitary_schema'",
    )
    .bind(engine.schema())
    .fetch_one(conn)
    .await?;
    match names {
        None => Ok(()),
        Some(names) => Err(Error::invalid(format!(
            "schema {} of {} has no ledger, but tables with names of the ledger ({names}): choose another schema, or rename these tables",
            engine.schema(),
            db.place()
        ))),
    }
}

/// Refuses a search path in which another ledger comes before this one: statements would
/// find its tables.
async fn refuse_hidden(conn: &mut Conn, db: &Db, engine: &Engine, own: &str) -> Result<(), Error> {
    let other: Option<String> = sqlx::query_scalar(
        "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('termitary_schema') AND c.oid IS DISTINCT FROM to_regclass($1)
           AND NOT starts_with(current_setting('search_path'), $2)",
    )
    .bind(own)
    .bind(engine.quoted_schema())
    .fetch_optional(conn)
    .await?;
    match other {
        None => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "schema {other} of {} has a ledger, which hides one in the schema {}: choose {other} as the schema, or move its tables to another schema",
            db.place(),
            engine.schema()
        ))),
    }
}
