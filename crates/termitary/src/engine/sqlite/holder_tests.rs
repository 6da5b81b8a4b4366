//! Waits for the turn to write: bounded, named, never for oneself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::WaitLimits;
use super::holder::{Caller, TurnWatch};
use crate::broker::Broker;
use crate::db::{Db, Options, Tx};
use crate::error::Error;

struct Desk {
    db: Db,
    _folder: tempfile::TempDir,
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_mins(1);

async fn desk(turn: Duration, idle: Duration) -> Desk {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/hold.db", folder.path().display());
    let mut options = Options::default();
    options.settings.limits = WaitLimits {
        turn,
        idle,
        ..WaitLimits::DEFAULT
    };
    let db = Db::open_with(&url, options).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE notes (id INTEGER)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    Desk {
        db,
        _folder: folder,
    }
}

impl Desk {
    /// Another process, as far as SQLite can tell, with the write lock.
    fn stranger(&self) -> Connection {
        let conn = Connection::open(self.db.path().unwrap()).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        conn
    }

    async fn notes(&self) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM notes")
            .fetch_one(&mut *self.db.read().await.unwrap())
            .await
            .unwrap()
    }
}

async fn note(tx: &mut Tx) {
    sqlx::query("INSERT INTO notes VALUES (1)")
        .execute(&mut *tx)
        .await
        .unwrap();
}

/// Runs `work` as a task, as everything but `main` is one.
async fn task<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap()
}

#[tokio::test]
async fn a_second_write_beside_an_open_transaction_of_its_own_task_is_refused_with_the_way_out() {
    let desk = desk(LONG, LONG).await;
    let db = desk.db.clone();
    let (published, begun) = task(async move {
        let broker = Broker::sql(db.clone());
        let mut tx = db.begin().await.unwrap();
        note(&mut tx).await;
        let published = broker.bus().publish_json("notes.written", "1").await;
        let begun = db.begin().await.map(drop);
        tx.commit().await.unwrap();
        (published.map(drop), begun)
    })
    .await;
    for refused in [published, begun] {
        let refused = refused.unwrap_err();
        assert!(refused.is_invalid(), "{refused:?}");
        let told = refused.to_string();
        for part in [
            "begun at crates/termitary/src/engine/sqlite/holder_tests.rs:",
            "`tx.publish`",
            "commit it first",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
    assert_eq!(desk.notes().await, 1, "the transaction is none the worse");
    let events: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events")
        .fetch_one(&mut *desk.db.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(events, 0, "what was refused does not happen later");
}

#[tokio::test]
async fn transactions_and_publishes_that_one_task_runs_side_by_side_all_happen() {
    let desk = desk(LONG, LONG).await;
    let db = desk.db.clone();
    let ended = task(async move {
        let broker = Broker::sql(db.clone());
        let work = (0..40).map(|n| {
            let (db, broker) = (db.clone(), broker.clone());
            async move {
                if n % 4 == 0 {
                    return broker
                        .bus()
                        .publish_json("notes.written", "1")
                        .await
                        .map(drop);
                }
                let mut tx = db.begin().await?;
                note(&mut tx).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                note(&mut tx).await;
                tx.commit().await
            }
        });
        futures_util::future::join_all(work).await
    })
    .await;
    for one in ended {
        one.unwrap();
    }
    assert_eq!(desk.notes().await, 60);
}

#[tokio::test]
async fn a_long_statement_of_the_same_task_is_no_reason_to_refuse() {
    let desk = desk(LONG, LONG).await;
    let db = desk.db.clone();
    let (long, short) = task(async move {
        let long = async {
            let mut tx = db.begin().await?;
            let began = Instant::now();
            while began.elapsed() < WaitLimits::DEFAULT.own * 2 {
                sqlx::query("INSERT INTO notes SELECT 1 FROM (WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT i FROM n) WHERE i = 7")
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        };
        let short = async {
            let mut tx = db.begin().await?;
            note(&mut tx).await;
            tx.commit().await
        };
        tokio::join!(long, short)
    })
    .await;
    long.unwrap();
    short.unwrap();
}

#[tokio::test]
async fn a_turn_that_does_not_come_in_time_names_who_has_it() {
    let desk = desk(SHORT, LONG).await;
    let tx = desk.db.begin().await.unwrap();
    let broker = Broker::sql(desk.db.clone());
    let begun = desk.db.begin().await.map(drop).unwrap_err();
    let published = broker.bus().publish_json("notes.written", "1").await;
    for refused in [begun, published.map(drop).unwrap_err()] {
        assert!(refused.is_unavailable(), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains("holder_tests.rs:"), "{told}");
        assert!(told.contains("has had it for"), "{told}");
    }
    tx.commit().await.unwrap();
    broker
        .bus()
        .publish_json("notes.written", "1")
        .await
        .unwrap();
}

/// The results of `n` callers that begin to wait together, and the time that all of them took.
async fn together<F>(n: usize, one: impl Fn() -> F) -> (Vec<Result<(), Error>>, Duration)
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let began = Instant::now();
    let all: Vec<_> = (0..n).map(|_| tokio::spawn(one())).collect();
    let all = futures_util::future::join_all(all).await;
    (
        all.into_iter().map(Result::unwrap).collect(),
        began.elapsed(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_another_process_do_not_add_up() {
    const TURN: Duration = Duration::from_secs(1);
    const CALLERS: usize = 12;
    let desk = desk(TURN, LONG).await;
    let stranger = desk.stranger();
    let begins = {
        let db = desk.db.clone();
        move || {
            let db = db.clone();
            async move { db.begin().await.map(drop) }
        }
    };
    let asks = {
        let db = desk.db.clone();
        move || {
            let db = db.clone();
            async move { db.write(|_| Ok(())).await }
        }
    };
    for (ended, took) in [
        together(CALLERS, begins).await,
        together(CALLERS, asks).await,
    ] {
        for refused in ended {
            let refused = refused.unwrap_err();
            assert!(refused.is_unavailable(), "{refused:?}");
            assert!(refused.to_string().contains("is locked"), "{refused}");
        }
        assert!(took >= TURN, "{took:?}");
        assert!(
            took < TURN * (CALLERS as u32) / 2,
            "one after the other: {took:?}"
        );
    }
    stranger.execute_batch("ROLLBACK").unwrap();
    let mut tx = desk.db.begin().await.unwrap();
    note(&mut tx).await;
    tx.commit().await.unwrap();
    desk.db.write(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_does_nothing_while_others_wait_is_ended_and_makes_room() {
    let desk = desk(LONG, SHORT).await;
    let mut still = desk.db.begin().await.unwrap();
    note(&mut still).await;
    let mut next = desk.db.begin().await.unwrap();
    note(&mut next).await;
    let statement = sqlx::query("INSERT INTO notes VALUES (2)")
        .execute(&mut *still)
        .await;
    let lent = still.sqlite().map(drop).unwrap_err();
    let ended = still.commit().await.unwrap_err();
    for refused in [Error::from(statement.unwrap_err()), lent, ended] {
        assert!(refused.is_unavailable(), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains("ran no statement for"), "{told}");
        assert!(told.contains("holder_tests.rs:"), "{told}");
    }
    next.commit().await.unwrap();
    assert_eq!(desk.notes().await, 1, "the other one's alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_transaction_that_blocks_its_thread_is_undone_while_the_thread_is_blocked() {
    let desk = desk(LONG, SHORT).await;
    let (blocks, blocked) = tokio::sync::oneshot::channel();
    let (wake, sleep) = std::sync::mpsc::channel::<()>();
    let db = desk.db.clone();
    let sleeper = tokio::spawn(async move {
        let mut tx = db.begin().await.unwrap();
        note(&mut tx).await;
        blocks.send(()).unwrap();
        sleep.recv().unwrap();
        tx.commit().await
    });
    blocked.await.unwrap();
    let mut here = desk.db.begin().await.unwrap();
    note(&mut here).await;
    here.commit().await.unwrap();
    desk.db.write(|_| Ok(())).await.unwrap();
    let other = desk.stranger();
    other
        .execute_batch("INSERT INTO notes VALUES (3); COMMIT")
        .unwrap();
    assert_eq!(desk.notes().await, 2, "what was undone is not there");
    wake.send(()).unwrap();
    let told = sleeper.await.unwrap().unwrap_err().to_string();
    assert!(told.contains("never block the thread"), "{told}");
    assert_eq!(desk.notes().await, 2);
}

#[tokio::test]
async fn what_others_left_to_a_transaction_that_is_ended_becomes_real() {
    let desk = desk(LONG, SHORT).await;
    let mut first = desk.db.begin().await.unwrap();
    note(&mut first).await;
    let still = desk.db.begin();
    tokio::pin!(still);
    assert!(futures_util::poll!(&mut still).is_pending());
    let first = tokio::spawn(first.commit());
    let mut still = still.await.unwrap();
    note(&mut still).await;
    let next = desk.db.begin().await.unwrap();
    next.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    assert!(still.commit().await.is_err());
    assert_eq!(desk.notes().await, 1);
}

#[tokio::test]
async fn while_its_connection_is_lent_a_transaction_goes_on() {
    let desk = desk(LONG, SHORT).await;
    let mut tx = desk.db.begin().await.unwrap();
    let lent = tx.sqlite().unwrap();
    let next = desk.db.begin();
    tokio::pin!(next);
    assert!(tokio::time::timeout(SHORT * 5, &mut next).await.is_err());
    drop(lent);
    next.await.unwrap().rollback().await.unwrap();
    assert!(tx.commit().await.is_err());
}

#[tokio::test]
async fn a_transaction_that_works_while_others_wait_is_left_alone() {
    let desk = desk(LONG, SHORT).await;
    let mut works = desk.db.begin().await.unwrap();
    let waits = desk.db.begin();
    tokio::pin!(waits);
    assert!(futures_util::poll!(&mut waits).is_pending());
    for _ in 0..20 {
        note(&mut works).await;
        assert!(tokio::time::timeout(SHORT / 4, &mut waits).await.is_err());
    }
    let next = async { waits.await?.rollback().await };
    let (works, next) = tokio::join!(works.commit(), next);
    works.unwrap();
    next.unwrap();
    assert_eq!(desk.notes().await, 20);
}

#[test]
fn a_long_turn_is_followed_by_one_pause_and_a_short_one_by_none() {
    let watch = Arc::new(TurnWatch::new(WaitLimits::DEFAULT));
    for (turn, pauses) in [(1, false), (300, true)] {
        let holding = watch.enter(Caller::broker());
        holding.opened(Weak::new());
        std::thread::sleep(Duration::from_millis(turn));
        drop(holding);
        assert_eq!(watch.pause().is_some(), pauses, "after {turn} ms");
        assert_eq!(watch.pause(), None, "once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_long_turn_another_process_has_one_whoever_queues_here() {
    const ROUNDS: u32 = 5;
    // Long enough that the pause after it is met on a busy machine too.
    const TURN: Duration = Duration::from_millis(1_200);
    let desk = desk(LONG, LONG).await;
    let path = desk.db.path().unwrap().to_owned();
    let other = tokio::task::spawn_blocking(move || {
        let conn = Connection::open(path).unwrap();
        conn.busy_timeout(Duration::ZERO).unwrap();
        while conn.execute_batch("BEGIN IMMEDIATE").is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Instant::now()
    });
    let long = (0..ROUNDS).map(|_| {
        let db = desk.db.clone();
        async move {
            let mut tx = db.begin().await.unwrap();
            note(&mut tx).await;
            tokio::time::sleep(TURN).await;
            tx.commit().await.unwrap();
            Instant::now()
        }
    });
    let long = long.map(tokio::spawn);
    let all = futures_util::future::join_all(long).await;
    let last = all.into_iter().map(Result::unwrap).max().unwrap();
    assert!(other.await.unwrap() < last, "it came after all of {ROUNDS}");
}
