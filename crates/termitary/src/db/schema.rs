//! The ledger's tables, and how an older file becomes a newer one.

use super::Db;
use crate::error::{Error, Kind};

/// One step per version: step n brings a file from version n to n + 1.
/// Steps that have been released are never edited.
const STEPS: &[&str] = &[
    include_str!("0001_ledger.sql"),
    include_str!("0002_suspects.sql"),
    include_str!("0003_unrouted.sql"),
    include_str!("0004_doubts.sql"),
    include_str!("0005_kept.sql"),
    include_str!("0006_worker_mode.sql"),
    include_str!("0007_scoped_ids.sql"),
    include_str!("0008_failing.sql"),
    include_str!("0009_names.sql"),
    include_str!("0010_retained.sql"),
];

/// Brings the file to this code's version; refuses one from the future.
pub(super) async fn migrate(db: &Db) -> Result<(), Error> {
    if version(db).await? == STEPS.len() {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS termitary_schema (version INTEGER NOT NULL)")
        .execute(&mut *tx)
        .await?;
    // Again, now that nobody else can be half-way.
    let at = sqlx::query_scalar::<_, i64>("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(&mut *tx)
        .await? as usize;
    if at > STEPS.len() {
        return Err(newer(db, at));
    }
    for step in &STEPS[at..] {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
    }
    sqlx::query("DELETE FROM termitary_schema")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO termitary_schema (version) VALUES ($1)")
        .bind(STEPS.len() as i64)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

async fn version(db: &Db) -> Result<usize, Error> {
    let known: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'termitary_schema')",
    )
    .fetch_one(db.reader())
    .await?;
    if !known {
        return Ok(0);
    }
    let at: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM termitary_schema")
        .fetch_one(db.reader())
        .await?;
    let at = at as usize;
    if at > STEPS.len() {
        Err(newer(db, at))
    } else {
        Ok(at)
    }
}

fn newer(db: &Db, at: usize) -> Error {
    Error::new(
        Kind::NewerSchema,
        format!(
            "the ledger in {} has schema version {at}, this program knows up to {}: start the newer program, or restore a backup from before it ran",
            db.path().display(),
            STEPS.len()
        ),
    )
}
