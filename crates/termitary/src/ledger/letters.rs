//! Dead letters and parked events: listed, shown, run again, dropped.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::db::Db;
use crate::error::Error;
use crate::inspect::{Letter, LetterFilter, LetterState};

use super::{EventRow, event_columns, state};

const SELECT: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", s.name AS subscription, d.state, d.reason, d.error, d.attempts, d.crashes, d.settled_us
     FROM termitary_deliveries d
     JOIN termitary_events e ON e.seq = d.event
     JOIN termitary_subscriptions s ON s.id = d.subscription
     WHERE d.state >= 3"
);

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    event: EventRow,
    subscription: String,
    state: i64,
    reason: Option<String>,
    error: Option<String>,
    attempts: i64,
    crashes: i64,
    settled_us: Option<i64>,
}

impl Row {
    fn letter(self) -> Result<Letter, Error> {
        Ok(Letter {
            event: self.event.envelope()?,
            subscription: self.subscription,
            state: if self.state == state::DEAD {
                LetterState::Dead
            } else {
                LetterState::Parked
            },
            reason: self.reason.unwrap_or_default(),
            error: self.error.unwrap_or_default(),
            attempts: self.attempts as u32,
            crashes: self.crashes as u32,
            at: crate::clock::from_micros(self.settled_us.unwrap_or_default()),
        })
    }
}

/// Letters that match, the oldest first.
pub(crate) async fn letters(
    db: &Db,
    filter: &LetterFilter,
    limit: u32,
) -> Result<Vec<Letter>, Error> {
    let mut query = QueryBuilder::<Sqlite>::new(SELECT);
    push_filter(&mut query, filter);
    query
        .push(" ORDER BY d.event, d.subscription LIMIT ")
        .push_bind(i64::from(limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(db.reader()).await?;
    rows.into_iter().map(Row::letter).collect()
}

/// The letters of one event.
pub(crate) async fn letter(db: &Db, event: Uuid) -> Result<Vec<Letter>, Error> {
    letters(
        db,
        &LetterFilter {
            event: Some(event),
            ..LetterFilter::default()
        },
        1000,
    )
    .await
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &LetterFilter) {
    if let Some(event) = filter.event {
        query
            .push(" AND d.event = (SELECT seq FROM termitary_events WHERE id = ")
            .push_bind(event)
            .push(")");
    }
    if let Some(subscription) = &filter.subscription {
        query
            .push(" AND d.subscription = (SELECT id FROM termitary_subscriptions WHERE name = ")
            .push_bind(subscription.clone())
            .push(")");
    }
    if let Some(wanted) = filter.state {
        let wanted = if wanted == LetterState::Dead {
            state::DEAD
        } else {
            state::PARKED
        };
        query.push(" AND d.state = ").push_bind(wanted);
    }
}

/// What an operator decides about a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolve {
    Replay,
    Drop,
}

/// Resolves one page of matching letters; answers how many.
pub(crate) async fn resolve(
    conn: &mut SqliteConnection,
    filter: &LetterFilter,
    resolve: Resolve,
    now_us: i64,
    page: u32,
) -> Result<u64, Error> {
    let mut query = QueryBuilder::<Sqlite>::new(match resolve {
        // A replay starts afresh: all attempts again, no crashes held against it.
        Resolve::Replay => {
            "UPDATE termitary_deliveries SET state = 0, attempts = 0, crashes = 0,
            reason = NULL, error = NULL, settled_us = NULL, due_us = "
        }
        Resolve::Drop => {
            "UPDATE termitary_deliveries SET state = 2, reason = 'dropped', settled_us = "
        }
    });
    query.push_bind(now_us).push(
        " WHERE (event, subscription) IN (SELECT d.event, d.subscription FROM termitary_deliveries d WHERE d.state >= 3",
    );
    push_filter(&mut query, filter);
    if resolve == Resolve::Replay {
        // What the bridge parked has no handler that it could run in.
        query
            .push(" AND d.subscription <> (SELECT id FROM termitary_subscriptions WHERE name = ")
            .push_bind(super::BRIDGE)
            .push(")");
    }
    query
        .push(" ORDER BY d.event, d.subscription LIMIT ")
        .push_bind(i64::from(page))
        .push(")");
    Ok(query.build().execute(conn).await?.rows_affected())
}
