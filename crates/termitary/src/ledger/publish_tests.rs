//! A batch takes as many statements as its size needs; what it records does not
//! depend on that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::prelude::*;

#[derive(Serialize, Deserialize)]
struct Made {
    n: usize,
}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

#[tokio::test]
async fn batches_of_every_size_are_recorded_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("a.db").display());
    let broker = Broker::sql(Db::open(&url).await.unwrap());
    let registry = Registry::<()>::new()
        .on(subscribe("made", made))
        .on(subscribe("again", made));
    broker.register(&registry).await.unwrap();
    let sizes = [1, 2, 3, 5, 9, 17, 33, 65, 129, 256, 257, 600];
    let mut all = 0;
    for size in sizes {
        let events = (all..all + size).map(|n| Made { n });
        let published = broker.bus().publish_all(events).await.unwrap();
        assert_eq!(published.len(), size);
        all += size;
    }
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT e.data->>'n', COUNT(*) FROM termitary_events e
         JOIN termitary_deliveries d ON d.event = e.seq AND d.state = 0 AND d.due_us = e.time_us
         GROUP BY e.seq ORDER BY e.seq",
    )
    .fetch_all(&mut *broker.db().read().await.unwrap())
    .await
    .unwrap();
    let expected: Vec<_> = (0..all as i64).map(|n| (n, 2)).collect();
    assert_eq!(rows, expected);
}
