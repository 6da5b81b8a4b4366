//! The deliveries that wait, with their events: read in pages, by their state.

use std::collections::HashSet;

use uuid::Uuid;

use crate::db::Db;
use crate::error::Error;
use crate::event::Envelope;

use super::rows::{StoredEvent, Text, event_columns, known_or_stand_in};

/// The number of deliveries in one page.
const PAGE: i64 = 256;

/// A delivery that waits, or that a worker holds.
pub(crate) struct Waiting {
    pub(crate) subscription: String,
    pub(crate) id: Uuid,
    /// The event's name as far as it can be shown.
    pub(crate) name: String,
    /// The event, or why its row cannot be read.
    pub(crate) event: Result<Envelope, String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    event: StoredEvent,
    subscription: Text,
    route: i64,
    /// The place in the order of the walk.
    first: i64,
    second: i64,
    third: i64,
}

impl Row {
    fn waiting(self) -> Waiting {
        let id = known_or_stand_in(self.event.id.as_ref(), self.event.seq);
        let name = self.event.name.clone().and_then(super::rows::Bytes::text);
        Waiting {
            subscription: self.subscription.0,
            id,
            name: name.unwrap_or_default(),
            event: self
                .event
                .read()
                .map_err(|unreadable| unreadable.to_string()),
        }
    }
}

/// A page of deliveries in a state, in the order of the index that has them.
macro_rules! page {
    ($state:literal, $order:literal, $first:literal, $second:literal, $third:literal) => {
        concat!(
            "SELECT d.event AS seq, ",
            event_columns!(),
            ", s.name AS subscription, d.subscription AS route, ",
            $first,
            " AS first, ",
            $second,
            " AS second, ",
            $third,
            " AS third FROM termitary_deliveries d
             LEFT JOIN termitary_events e ON e.seq = d.event
             JOIN termitary_subscriptions s ON s.id = d.subscription
             WHERE ",
            $state,
            " AND (",
            $order,
            ") > ($1, $2, $3) ORDER BY ",
            $order,
            " LIMIT $4 + 0"
        )
    };
}

/// Pending, leased and suspect deliveries.
const WALKS: [&str; 3] = [
    page!(
        "d.state = 0",
        "d.subscription, d.due_us, d.event",
        "d.subscription",
        "d.due_us",
        "d.event"
    ),
    page!(
        "d.state = 1",
        "d.lease_us, d.event, d.subscription",
        "d.lease_us",
        "d.event",
        "d.subscription"
    ),
    page!(
        "d.crashes >= 2 AND d.state <= 1 AND d.state = -1",
        "d.due_us, d.event, d.subscription",
        "d.due_us",
        "d.event",
        "d.subscription"
    ),
];

/// Calls `each` with every delivery that is pending or leased. A system that runs
/// changes meanwhile: what it settles may be missing, and nothing comes twice.
pub(crate) async fn each(db: &Db, mut each: impl FnMut(Waiting)) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for walk in WALKS {
        let mut after = (i64::MIN, i64::MIN, i64::MIN);
        loop {
            let rows: Vec<Row> = sqlx::query_as(walk)
                .bind(after.0)
                .bind(after.1)
                .bind(after.2)
                .bind(PAGE)
                .fetch_all(&mut *db.read_long().await?)
                .await?;
            let Some(last) = rows.last() else { break };
            after = (last.first, last.second, last.third);
            for row in rows {
                if seen.insert((row.event.seq, row.route)) {
                    each(row.waiting());
                }
            }
        }
    }
    Ok(())
}
