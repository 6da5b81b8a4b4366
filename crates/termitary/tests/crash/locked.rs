//! A process that starts while another one holds the database's write lock.

use sqlx::{Connection as _, SqliteConnection};
use termitary::prelude::*;
use termitary::testing::TestDb;
use termitary::{Clock, Error};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::suspects::Fed;

async fn fed(_: Fed) -> HandlerResult {
    Ok(())
}

fn registry() -> Registry<()> {
    Registry::new().on(subscribe("locked.fed", fed))
}

/// Another process, as far as SQLite can tell.
async fn stranger(db: &TestDb) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(db.db().place());
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) {
    sqlx::query(statement).execute(connection).await.unwrap();
}

/// Waits until two statements that began after now gave up waiting for the lock: every earlier one
/// has given up by then, or never does.
async fn others_give_up(db: &TestDb) {
    for _ in 0..2 {
        assert!(db.db().begin().await.is_err_and(|e| e.is_unavailable()));
    }
}

/// A worker in a separate process, and the channel that stops it.
fn start(db: &TestDb) -> (oneshot::Sender<()>, JoinHandle<Result<(), Error>>) {
    let (stop, stopped) = oneshot::channel();
    let url = format!("sqlite://{}", db.db().place());
    let worker = tokio::spawn(async move {
        let broker = Broker::sql(Db::open(&url).await?);
        let shutdown = async {
            let _ = stopped.await;
        };
        Worker::new(broker, registry())
            .state(())
            .run(shutdown)
            .await
    });
    (stop, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_while_the_database_is_locked_waits_and_then_works() {
    let db = TestDb::open_with(Clock::system()).await;
    let broker = Broker::sql(db.db().clone());
    broker.register(&registry()).await.unwrap();
    broker.bus().publish(Fed { n: 1 }).await.unwrap();
    let mut stranger = stranger(&db).await;
    run(&mut stranger, "BEGIN IMMEDIATE").await;
    let (stop, worker) = start(&db);
    others_give_up(&db).await;
    run(&mut stranger, "ROLLBACK").await;
    while broker.inspect().status().await.unwrap().subscriptions[0].done == 0 {
        assert!(!worker.is_finished(), "{:?}", worker.await);
        tokio::time::sleep(secs(1) / 50).await;
    }
    stop.send(()).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_while_it_waits_for_the_lock_stops() {
    let db = TestDb::open_with(Clock::system()).await;
    let mut stranger = stranger(&db).await;
    run(&mut stranger, "BEGIN IMMEDIATE").await;
    let (stop, worker) = start(&db);
    others_give_up(&db).await;
    stop.send(()).unwrap();
    worker.await.unwrap().unwrap();
    run(&mut stranger, "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_file_that_another_process_is_setting_up_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fresh.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut stranger = SqliteConnection::connect_with(&options).await.unwrap();
    // Not yet a file with a write-ahead log: not even readers get past this.
    run(&mut stranger, "BEGIN EXCLUSIVE").await;
    let url = format!("sqlite://{}", path.display());
    let opening = tokio::spawn(async move { Db::open(&url).await.map(drop) });
    let mut impatient = SqliteConnection::connect_with(&options).await.unwrap();
    for _ in 0..2 {
        let read = sqlx::query("SELECT * FROM sqlite_master").execute(&mut impatient);
        assert!(read.await.is_err(), "it is locked");
    }
    run(&mut stranger, "ROLLBACK").await;
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named_at_once() {
    let db = TestDb::open().await;
    let mut tx = db.db().begin().await.unwrap();
    // On the only connection that writes: as a file of another user.
    run(&mut tx.sqlite().unwrap(), "PRAGMA query_only = 1").await;
    tx.rollback().await.unwrap();
    let refused = Broker::sql(db.db().clone()).register(&registry()).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    assert!(refused.to_string().contains("read-only"), "{refused}");
    assert!(refused.to_string().contains("test.db"), "{refused}");
}
