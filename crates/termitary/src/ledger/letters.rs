//! Dead letters and parked events: listed, shown, run again, dropped.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::QueryBuilder;
use uuid::Uuid;

use crate::db::{Conn, Db, Sql};
use crate::error::Error;
use crate::event::Envelope;

use super::rows::{StoredEvent, Text, clamped, event_columns, stands_in_for};
use super::sql::{Row, Statement, json, statement};
use super::state;

/// A delivery that will not run by itself: dead, or parked.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Letter {
    /// The event, payload included.
    pub event: Envelope,
    /// The subscription of the delivery.
    pub subscription: String,
    /// Dead or parked.
    pub state: LetterState,
    /// Dead: `error` (the last attempt failed), `permanent` or `crashed`. Parked: `version`,
    /// `unknown-name` (the subscription's code does not name this event), `undecodable`,
    /// `unreadable` (a row of the ledger, shown as far as possible), and from plain pub/sub
    /// `unknown-event` or `malformed`.
    pub reason: String,
    /// The last error's text.
    pub error: String,
    /// Handler errors.
    pub attempts: u32,
    /// Worker processes that ended while they ran it.
    pub crashes: u32,
    /// When it was given up or parked.
    pub at: Timestamp,
}

/// Dead, or parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LetterState {
    /// Given up.
    Dead,
    /// Not readable by this code.
    Parked,
}

/// Which letters; the default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this event only.
    pub event: Option<Uuid>,
    /// Of this subscription only.
    pub subscription: Option<String>,
    /// Of this state only.
    pub state: Option<LetterState>,
}

const SELECT: &str = concat!(
    "SELECT d.event AS seq, ",
    event_columns!(),
    ", s.name AS subscription, d.state, d.reason, d.error, d.attempts, d.crashes, d.settled_us
     FROM termitary_deliveries d
     LEFT JOIN termitary_events e ON e.seq = d.event
     JOIN termitary_subscriptions s ON s.id = d.subscription
     WHERE d.state >= 3"
);

#[derive(sqlx::FromRow)]
struct StoredLetter {
    #[sqlx(flatten)]
    event: StoredEvent,
    subscription: Text,
    state: i64,
    reason: Option<Text>,
    error: Option<Text>,
    attempts: i64,
    crashes: i64,
    settled_us: Option<i64>,
}

impl StoredLetter {
    /// The letter; `None` for a state that no program of ours wrote.
    fn letter(self) -> Option<Letter> {
        let state = match self.state {
            state::DEAD => LetterState::Dead,
            state::PARKED => LetterState::Parked,
            state => {
                let (event, subscription) = (self.event.seq, &*self.subscription.0);
                tracing::warn!(
                    event,
                    subscription,
                    state,
                    "left out a delivery in an unknown state"
                );
                return None;
            }
        };
        Some(Letter {
            event: self.event.shown(),
            subscription: self.subscription.0,
            state,
            reason: self.reason.unwrap_or_default().0,
            error: self.error.unwrap_or_default().0,
            attempts: clamped(self.attempts),
            crashes: clamped(self.crashes),
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
    let mut query = QueryBuilder::<Sql>::new(SELECT);
    push_filter(&mut query, filter);
    query
        .push(" ORDER BY d.event, d.subscription LIMIT ")
        .push_bind(i64::from(limit));
    let rows: Vec<StoredLetter> = query
        .build_query_as()
        .fetch_all(&mut *db.read().await?)
        .await?;
    Ok(rows.into_iter().filter_map(StoredLetter::letter).collect())
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

fn push_filter(query: &mut QueryBuilder<Sql>, filter: &LetterFilter) {
    if let Some(seq) = filter.event.and_then(stands_in_for) {
        query.push(" AND d.event = ").push_bind(seq);
    } else if let Some(event) = filter.event {
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

/// An operator's decision about a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolve {
    Replay,
    Drop,
}

/// Every letter that matches now and can be resolved so, the oldest first, with the
/// fence that it was given up under: a letter that is given up again is another one.
pub(crate) async fn matching(
    conn: &mut Conn,
    filter: &LetterFilter,
    resolve: Resolve,
) -> Result<Vec<Row>, Error> {
    let mut query = QueryBuilder::<Sql>::new(
        "SELECT d.event, d.subscription, d.fence FROM termitary_deliveries d WHERE d.state >= 3 AND d.state <= 4",
    );
    push_filter(&mut query, filter);
    if resolve == Resolve::Replay {
        // An event that the bridge parked has no handler.
        query
            .push(" AND d.subscription <> (SELECT id FROM termitary_subscriptions WHERE name = ")
            .push_bind(super::BRIDGE)
            .push(")");
    }
    query.push(" ORDER BY d.event, d.subscription");
    Ok(query.build_query_as().fetch_all(conn).await?)
}

/// Resolves those of these letters that are letters still; returns how many.
pub(crate) async fn resolve(
    conn: &mut Conn,
    letters: &[Row],
    resolve: Resolve,
    now_us: i64,
) -> Result<u64, Error> {
    let sql = match resolve {
        Resolve::Replay => REPLAY,
        Resolve::Drop => DROP,
    };
    let done = sqlx::query(sql.on(conn))
        .bind(json(&letters))
        .bind(now_us)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// The same for letters, which nobody holds, as `held!` does for leases.
macro_rules! these {
    ($set:literal) => {
        statement!(
            "UPDATE termitary_deliveries AS d SET ",
            $set,
            " FROM ",
            [rows],
            " WHERE d.event = ",
            [int 0],
            " AND d.subscription = ",
            [int 1],
            " AND d.fence = ",
            [int 2],
            " AND d.state >= 3 AND d.state <= 4"
        )
    };
}

/// A replay starts afresh: all attempts again, no crashes held against it.
pub(super) const REPLAY: Statement = these!(
    "state = 0, attempts = 0, crashes = 0, reason = NULL, error = NULL, settled_us = $2, due_us = $2"
);
pub(super) const DROP: Statement = these!("state = 2, reason = 'dropped', settled_us = $2");
