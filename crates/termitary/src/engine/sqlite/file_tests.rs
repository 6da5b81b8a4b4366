//! Another file in the place of an open one: the new one stays whole.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::wal_owner::log_of;
use crate::db::Db;

async fn open(path: &Path) -> Db {
    Db::open(&format!("sqlite://{}", path.display()))
        .await
        .unwrap()
}

async fn note(db: &Db, text: &str) -> Result<(), crate::Error> {
    let mut tx = db.begin().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS notes (text)")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO notes VALUES ($1)")
        .bind(text)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

fn look(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

fn notes(conn: &Connection) -> i64 {
    let whole: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(whole, "ok");
    conn.query_row("SELECT COUNT(*) FROM notes", [], |row| row.get(0))
        .unwrap()
}

/// A database with one note, in use; and a backup of it that was taken then.
async fn with_backup(folder: &Path) -> (Db, PathBuf, PathBuf) {
    let path = folder.join("live.db");
    let backup = folder.join("backup.db");
    let db = open(&path).await;
    note(&db, "one").await.unwrap();
    look(&path)
        .execute("VACUUM INTO ?1", [backup.to_str()])
        .unwrap();
    for n in 0..200 {
        note(&db, &format!("after the backup: {n}")).await.unwrap();
    }
    (db, path, backup)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_moved_over_a_live_file_stays_whole_and_the_old_process_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path, backup) = with_backup(folder.path()).await;
    let before = std::fs::read(&backup).unwrap();
    std::fs::rename(&backup, &path).unwrap();
    assert!(db.is_in_place().is_err());
    for _ in 0..300 {
        let refused = note(&db, "lost").await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused:?}");
        let asked = db.write(|_| Ok(())).await.unwrap_err();
        assert!(asked.to_string().contains("replaced"), "{asked}");
        drop(db.read().await);
    }
    assert!(std::fs::read(&path).unwrap() == before, "while it lives");
    // A start beside it is refused, as long as the old log lies there.
    let url = format!("sqlite://{}", path.display());
    let refused = Db::open(&url).await.map(drop).unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    let told = refused.to_string();
    assert!(
        told.contains("live.db-wal") && told.contains("live.db-shm"),
        "{told}"
    );
    assert!(
        std::fs::read(&path).unwrap() == before,
        "after a refused start"
    );
    // As the message says; the old process still lives.
    std::fs::remove_file(log_of(&path)).unwrap();
    std::fs::remove_file(folder.path().join("live.db-shm")).unwrap();
    let next = open(&path).await;
    note(&next, "two").await.unwrap();
    db.close().await;
    drop(db);
    note(&next, "three").await.unwrap();
    assert!(log_of(&path).exists(), "the log of the new one is its own");
    assert_eq!(notes(&look(&path)), 3);
    next.close().await;
    assert_eq!(notes(&look(&path)), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_refuses_the_log_that_a_killed_process_left_for_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path, backup) = with_backup(folder.path()).await;
    std::mem::forget(db); // killed: nothing is tidied
    std::fs::rename(&backup, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let refused = Db::open(&url).await.map(drop).unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_copied_together_with_its_log_opens() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path, _) = with_backup(folder.path()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("live.db");
    for end in ["", "-wal", "-shm", "-owner"] {
        let of = |path: &Path| format!("{}{end}", path.display());
        std::fs::copy(of(&path), of(&copy)).unwrap();
    }
    let copied = open(&copy).await;
    note(&copied, "in the copy").await.unwrap();
    assert_eq!(notes(&look(&copy)), 202);
    copied.close().await;
    db.close().await;
    let left = std::fs::read_dir(elsewhere.path()).unwrap().count();
    assert_eq!(left, 1, "the database alone, tidied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_removed_while_it_is_open_is_noticed_with_the_next_commit_and_nothing_is_lost()
 {
    let folder = tempfile::tempdir().unwrap();
    let (db, path, _) = with_backup(folder.path()).await;
    std::fs::remove_file(log_of(&path)).unwrap();
    let mut kept = 201;
    let told = loop {
        match note(&db, "no log").await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(kept <= 202, "one commit notices: {kept}");
    assert!(told.is_unavailable(), "{told:?}");
    assert!(
        told.to_string().contains("live.db-wal was removed"),
        "{told}"
    );
    assert!(db.is_in_place().is_err());
    db.close().await;
    let again = open(&path).await;
    assert_eq!(notes(&look(&path)), kept);
    again.close().await;
}
