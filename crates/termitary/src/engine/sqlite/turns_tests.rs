#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};

use super::turns::are_enough;
use crate::db::{Db, Tx};
use crate::error::Error;

struct Desk {
    db: Db,
    _folder: tempfile::TempDir,
}

async fn desk() -> Desk {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/turns.db", folder.path().display());
    let db = Db::open(&url).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE owners (id INTEGER PRIMARY KEY);
         CREATE TABLE notes (
            id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK,
            owner INTEGER REFERENCES owners (id) DEFERRABLE INITIALLY DEFERRED)",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    Desk {
        db,
        _folder: folder,
    }
}

async fn note(tx: &mut Tx, id: i64, owner: Option<i64>) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes (id, owner) VALUES ($1, $2)")
        .bind(id)
        .bind(owner)
        .execute(&mut *tx)
        .await
        .map(drop)
}

impl Desk {
    async fn notes(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT id FROM notes ORDER BY id")
            .fetch_all(&mut *self.db.read().await.unwrap())
            .await
            .unwrap()
    }

    async fn published(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT data FROM termitary_events ORDER BY CAST(data AS INTEGER)")
            .fetch_all(&mut *self.db.read().await.unwrap())
            .await
            .unwrap()
    }
}

/// Ends as its number says; returns the number if it was to be kept.
async fn one(db: Db, n: i64) -> Option<i64> {
    let mut tx = db.begin().await.unwrap();
    if n % 2 == 0 {
        note(&mut tx, n, None).await.unwrap();
    }
    let json = n.to_string();
    tx.publish_json("notes.written", &json).await.unwrap();
    match n % 5 {
        3 => {
            tx.rollback().await.unwrap();
            None
        }
        4 => {
            drop(tx);
            None
        }
        _ => {
            tx.commit().await.unwrap();
            Some(n)
        }
    }
}

#[test]
fn of_many_who_wait_half_share_a_commit_and_of_few_all() {
    /// Number of queued turns that share the next commit, while others have committed already and
    /// wait for the disk.
    fn shared(queued: usize, committed: usize) -> usize {
        let taken = 1..=queued;
        let enough = |kept: &usize| are_enough(*kept, queued - kept + committed);
        taken.clone().find(enough).unwrap_or(queued)
    }
    assert_eq!(shared(64, 0), 32);
    assert_eq!(shared(32, 32), 32, "and so on, in turns");
    assert_eq!(shared(400, 0), 200);
    assert_eq!(shared(200, 200), 200);
    assert_eq!(shared(20, 0), 20);
    assert_eq!(shared(20, 10), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_transactions_at_once_exactly_those_that_were_committed_are_real() {
    let desk = desk().await;
    let mut all = JoinSet::new();
    for n in 0..500 {
        all.spawn(one(desk.db.clone(), n));
    }
    let mut kept: Vec<_> = all.join_all().await.into_iter().flatten().collect();
    kept.sort_unstable();
    let written: Vec<_> = kept.iter().copied().filter(|n| n % 2 == 0).collect();
    assert_eq!(desk.notes().await, written);
    let said: Vec<_> = kept.iter().map(i64::to_string).collect();
    assert_eq!(desk.published().await, said);
    assert!(desk.db.at_rest());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_up_waiting_takes_nothing_with_it() {
    let desk = desk().await;
    let mut all = JoinSet::new();
    for n in 0..200_u64 {
        let db = desk.db.clone();
        all.spawn(async move {
            let work = one(db, i64::try_from(n).unwrap() * 5);
            let patience = Duration::from_micros(n * 37 % 3_000);
            tokio::time::timeout(patience, work).await.ok().flatten()
        });
    }
    let answered: Vec<_> = all.join_all().await.into_iter().flatten().collect();
    // A caller without a result may have been in time all the same.
    let mut tx = desk.db.begin().await.unwrap();
    note(&mut tx, -1, None).await.unwrap();
    tx.commit().await.unwrap();
    let published = desk.published().await;
    for n in answered {
        assert!(published.contains(&n.to_string()), "{n} was answered");
    }
    let noted = desk.notes().await;
    assert!(noted.contains(&-1), "the connection is free again");
    for n in noted.iter().filter(|n| **n >= 0) {
        assert!(published.contains(&n.to_string()), "{n} is half there");
    }
}

/// Commits `tx` while another caller waits for the next turn; returns its result and the next turn.
async fn pass_on(desk: &Desk, tx: Tx) -> (JoinHandle<Result<(), Error>>, Tx) {
    let next = desk.db.begin();
    tokio::pin!(next);
    assert!(futures_util::poll!(&mut next).is_pending());
    let ended = tokio::spawn(tx.commit());
    (ended, next.await.unwrap())
}

/// Two transactions that share a commit: the second is ended by `spoil`.
async fn beside(
    desk: &Desk,
    spoil: impl AsyncFnOnce(Tx) -> Result<(), Error>,
) -> (Result<(), Error>, Result<(), Error>) {
    let mut first = desk.db.begin().await.unwrap();
    note(&mut first, 1, None).await.unwrap();
    let (first, second) = pass_on(desk, first).await;
    let spoiled = spoil(second).await;
    (first.await.unwrap(), spoiled)
}

#[tokio::test]
async fn where_the_shared_commit_fails_nobody_is_told_that_it_worked() {
    let desk = desk().await;
    let no_such_owner = async |mut tx: Tx| {
        note(&mut tx, 2, Some(7)).await?;
        tx.commit().await
    };
    let (first, second) = beside(&desk, no_such_owner).await;
    assert!(first.is_err() && second.is_err(), "{first:?} {second:?}");
    assert_eq!(desk.notes().await, [0; 0]);
    assert_eq!(one(desk.db.clone(), 10).await, Some(10), "and it goes on");
}

/// Loses the database transaction.
async fn lose(tx: &mut Tx) {
    let lost = note(tx, 1, None).await;
    assert!(lost.is_err(), "the same note twice");
}

#[tokio::test]
async fn where_one_loses_the_database_transaction_the_other_is_told() {
    let desk = desk().await;
    let twice = async |mut tx: Tx| {
        lose(&mut tx).await;
        drop(tx);
        Ok(())
    };
    let (first, _) = beside(&desk, twice).await;
    let told = first.unwrap_err().to_string();
    assert!(told.contains("over before its commit"), "{told}");
    assert_eq!(desk.notes().await, [0; 0]);
    assert_eq!(one(desk.db.clone(), 10).await, Some(10), "and it goes on");
}

#[tokio::test]
async fn where_one_goes_on_although_it_lost_the_database_transaction_everybody_is_told() {
    let desk = desk().await;
    let regardless = async |mut second: Tx| {
        lose(&mut second).await;
        let (second, mut third) = pass_on(&desk, second).await;
        note(&mut third, 3, None).await?;
        let (third, mut fourth) = pass_on(&desk, third).await;
        note(&mut fourth, 4, None).await?;
        let fourth = fourth.commit().await;
        let third = third.await.unwrap();
        assert!(third.is_err() && fourth.is_err(), "{third:?} {fourth:?}");
        second.await.unwrap()
    };
    let (first, second) = beside(&desk, regardless).await;
    assert!(first.is_err() && second.is_err(), "{first:?} {second:?}");
    assert_eq!(desk.notes().await, [0; 0]);
    assert_eq!(one(desk.db.clone(), 10).await, Some(10), "and it goes on");
}

#[tokio::test]
async fn of_a_database_transaction_that_was_lost_nothing_is_published() {
    for events in [1, 100] {
        let desk = desk().await;
        let mut first = desk.db.begin().await.unwrap();
        note(&mut first, 1, None).await.unwrap();
        for n in 0..events {
            let json = n.to_string();
            first.publish_json("notes.written", &json).await.unwrap();
        }
        let (first, mut last) = pass_on(&desk, first).await;
        lose(&mut last).await;
        let last = last.commit().await;
        let first = first.await.unwrap();
        for told in [first, last] {
            let told = told.unwrap_err().to_string();
            assert!(told.contains("over before its commit"), "{told}");
        }
        assert_eq!(desk.published().await, [""; 0], "of {events}");
    }
}

#[tokio::test]
async fn a_statement_that_was_given_up_half_way_is_over_before_the_next_turn() {
    let desk = desk().await;
    let mut first = desk.db.begin().await.unwrap();
    {
        let written = note(&mut first, 1, None);
        tokio::pin!(written);
        let _ = futures_util::poll!(&mut written);
    }
    let (first, mut second) = pass_on(&desk, first).await;
    note(&mut second, 2, None).await.unwrap();
    second.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(desk.notes().await, [1]);
}

#[tokio::test]
async fn an_undone_transaction_leaves_the_one_before_it_whole() {
    let desk = desk().await;
    let undone = async |mut tx: Tx| {
        note(&mut tx, 2, None).await?;
        tx.rollback().await
    };
    let (first, second) = beside(&desk, undone).await;
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(desk.notes().await, [1]);
}

#[tokio::test]
async fn what_is_begun_inside_a_transaction_is_a_part_of_it() {
    use sqlx::Connection;

    let desk = desk().await;
    let mut tx = desk.db.begin().await.unwrap();
    note(&mut tx, 1, None).await.unwrap();
    for (id, kept) in [(2, true), (3, false)] {
        let mut conn = tx.sqlite().unwrap();
        let mut inner = conn.begin().await.unwrap();
        sqlx::query("INSERT INTO notes (id) VALUES ($1)")
            .bind(id)
            .execute(&mut *inner)
            .await
            .unwrap();
        if kept {
            inner.commit().await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    assert_eq!(desk.notes().await, [1, 2]);
}

#[tokio::test]
async fn work_that_was_left_to_one_who_goes_away_is_committed_all_the_same() {
    let desk = desk().await;
    let mut first = desk.db.begin().await.unwrap();
    let waits = {
        let db = desk.db.clone();
        tokio::spawn(async move { db.begin().await })
    };
    while desk.db.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    first.publish_json("notes.written", "1").await.unwrap();
    let commit = first.commit();
    tokio::pin!(commit);
    // Its work is left to the one who waits.
    assert!(futures_util::poll!(commit.as_mut()).is_pending());
    waits.abort();
    commit.await.unwrap();
    assert_eq!(desk.published().await, ["1"]);
}
