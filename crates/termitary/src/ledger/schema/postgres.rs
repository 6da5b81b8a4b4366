//! The ledger's tables on PostgreSQL: in a schema of their own, made by whoever comes
//! first while the others wait.

use sqlx::AssertSqlSafe;

use super::{Versions, newer};
use crate::db::{Conn, Db};
use crate::engine::postgres::Engine;
use crate::error::Error;

/// One step per version: step n brings a schema from version n to n + 1.
/// Steps that have been released are never edited.
const STEPS: &[&str] = &[
    include_str!("postgres/0001_ledger.sql"),
    include_str!("postgres/0002_publish.sql"),
];

pub(super) const VERSIONS: Versions = Versions {
    steps: STEPS,
    known: "SELECT to_regclass('termitary_schema') IS NOT NULL",
};

/// Brings the schema to this code's version; refuses one from the future.
pub(super) async fn migrate(db: &Db, engine: &Engine) -> Result<(), Error> {
    let mut tx = db.begin_own().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("termitary schema {}", engine.schema()))
        .execute(&mut *tx)
        .await?;
    prepare(&mut tx, engine).await?;
    // Again, now that nobody else can be half-way.
    let at: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(&mut *tx)
        .await?;
    let at = at as usize;
    if at > STEPS.len() {
        return Err(newer(db, at, STEPS.len()));
    }
    if at == 0 {
        refuse_namesakes(&mut tx, db, engine).await?;
    }
    for step in &STEPS[at..] {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
    }
    for sql in [
        "DELETE FROM termitary_schema WHERE version <> $1",
        "INSERT INTO termitary_schema (version) VALUES ($1)",
    ] {
        sqlx::query(sql)
            .bind(STEPS.len() as i64)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// Makes the schema, for this transaction the only one, and the table of its version.
async fn prepare(conn: &mut Conn, engine: &Engine) -> Result<(), Error> {
    let schema = engine.quoted_schema();
    let prepare = format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         SET LOCAL search_path TO {schema}, pg_temp;
         CREATE TABLE IF NOT EXISTS termitary_schema (version bigint NOT NULL)"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(conn).await?;
    Ok(())
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
