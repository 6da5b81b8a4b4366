//! Statements that run for each event, or over and over, find their rows by a key or an
//! index: their cost does not grow with the history.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{batch, broadcasts, letters, rows, settle, suspects};
use crate::db::Db;

async fn plan(db: &Db, sql: &str) -> Vec<String> {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
        .fetch_all(&mut *db.read().await.unwrap())
        .await
        .unwrap();
    steps.into_iter().map(|step| step.3).collect()
}

#[tokio::test]
async fn no_statement_of_an_event_walks_through_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("a.db").display());
    let db = Db::open(&url).await.unwrap();
    let mut statements = batch::statements();
    statements.extend(
        [
            settle::SETTLE.sqlite,
            broadcasts::PRUNE,
            suspects::NEXT,
            rows::PARK.sqlite,
            letters::REPLAY.sqlite,
            letters::DROP.sqlite,
        ]
        .map(str::to_owned),
    );
    // Statistics of nearly empty tables make a walk through them look cheap.
    for statistics in ["SELECT 1", "ANALYZE"] {
        let mut tx = db.begin().await.unwrap();
        sqlx::query(statistics).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        for sql in &statements {
            let steps = plan(&db, sql).await;
            let walks =
                |step: &&String| step.starts_with("SCAN ") && !step.contains("VIRTUAL TABLE");
            let walked = steps.iter().find(walks);
            assert_eq!(walked, None, "{sql}: {steps:?}");
        }
    }
}

/// Runs a statement on the thread that writes; returns how many steps of SQLite's
/// machine it took.
async fn steps(db: &Db, seq: i64) -> i32 {
    db.write(move |conn| {
        let mut prune = conn.prepare(broadcasts::PRUNE)?;
        prune.execute((seq, 100))?;
        Ok(prune.get_status(rusqlite::StatementStatus::VmStep))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn pruning_broadcasts_costs_what_it_deletes_however_many_stay() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("a.db").display());
    let db = Db::open(&url).await.unwrap();
    let fill = async |messages: i64| {
        let mut tx = db.begin().await.unwrap();
        for _ in 0..messages {
            broadcasts::send(&mut tx, "a", "{}", 0).await.unwrap();
        }
        tx.commit().await.unwrap();
    };
    fill(100).await;
    let beside_few = steps(&db, 10).await;
    fill(5_000).await;
    let beside_many = steps(&db, 20).await;
    assert_eq!(beside_few, beside_many, "ten rows each");
}
