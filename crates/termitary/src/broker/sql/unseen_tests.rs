#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::Sql;
use crate::db::Db;
use crate::delivery::Route;

async fn state(db: &Db) -> i64 {
    sqlx::query_scalar("SELECT state FROM termitary_deliveries")
        .fetch_one(&mut *db.read().await.unwrap())
        .await
        .unwrap()
}

async fn until(db: &Db, wanted: i64) {
    while state(db).await != wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn leases_that_were_answered_and_never_looked_at_go_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/commit.db", folder.path().display());
    let db = Db::open(&url).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO termitary_subscriptions (id, name, event, version, since_us, seen_us)
            VALUES (1, 'notes.read', 'notes.written', 1, 0, 0);
         INSERT INTO termitary_routes VALUES ('notes.written', 1)",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.publish_json("notes.written", "1").await.unwrap();
    tx.commit().await.unwrap();

    let sql = Sql::new(db.clone(), Duration::from_mins(1));
    let route = Route {
        fresh: Vec::new(),
        id: 1,
        name: "notes.read".into(),
        events: vec!["notes.written".into()],
        known: true,
    };
    let worker = "w".into();
    let mut lease = Box::pin(sql.try_lease(&route, &worker, 10));
    assert!(futures_util::poll!(&mut lease).is_pending());
    until(&db, 1).await;
    // The result is on its way or there already.
    drop(lease);
    until(&db, 0).await;
}
