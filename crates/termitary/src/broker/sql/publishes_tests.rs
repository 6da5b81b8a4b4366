#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::db::Db;

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_while_the_database_closes_is_answered_and_told_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/a.db", folder.path().display());
    let db = Db::open(&url).await.unwrap();
    let broker = Broker::sql(db.clone());
    let mut all = JoinSet::new();
    for n in 0..500 {
        let bus = broker.bus();
        all.spawn(async move {
            tokio::time::sleep(Duration::from_micros(n * 20)).await;
            bus.publish_json("notes.written", "1").await.is_ok()
        });
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    db.close().await;
    let answers = tokio::time::timeout(Duration::from_mins(1), all.join_all()).await;
    let told = answers.unwrap().into_iter().filter(|ok| *ok).count();

    let again = Db::open(&url).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM termitary_events")
        .fetch_one(&mut *again.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(kept, told as i64);
}
