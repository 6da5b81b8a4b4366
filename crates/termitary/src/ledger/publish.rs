//! Recording events and what is owed for them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use serde_json::json;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteQueryResult};
use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::error::Error;
#[cfg(feature = "redis")]
use crate::event::Envelope;
use crate::publish::{Draft, Published};

use super::gathered;
#[cfg(feature = "redis")]
use super::{declare::BRIDGE, state};

/// Rows of the largest statement. There is one for each number up to this: what
/// is padded or joined costs a quarter more, and one statement for each row twice
/// as much.
pub(super) const ROWS: usize = 64;

/// The place of an event's row in all its columns, the last of which is `fanned`.
const COLUMNS: &str = "(?,?,?,?,?,?,?,?,?,?,?)";

/// `fanned` of an event that is on its stream, or on its way there.
pub(super) const FANNED: i64 = 1;
const WAITS: i64 = 0;
/// `fanned` of an event that no subscription gets.
const UNROUTED: i64 = -1;

static INSERT_EVENTS: LazyLock<Vec<String>> = LazyLock::new(|| sized(""));

/// The same, and what is owed for them: two statements, one round trip to the
/// database's thread. For events that cannot be duplicates: their rows follow
/// each other.
static PUBLISH: LazyLock<Vec<String>> = LazyLock::new(|| {
    sized(&insert_deliveries_sql(
        "e.seq > last_insert_rowid() - changes()",
    ))
});

/// One statement for each number of events, and another after it.
pub(super) fn sized(then: &str) -> Vec<String> {
    let insert = |rows| {
        format!(
            "INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned)
             VALUES {} ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING; {then}",
            // No numbered parameters: finding the name of one walks the list of all.
            vec![COLUMNS; rows].join(",")
        )
    };
    (1..=ROWS).map(insert).collect()
}

/// One delivery for each subscription that the names of these events reach.
fn insert_deliveries_sql(which: &str) -> String {
    format!(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us)
         SELECT e.seq, r.subscription, 0, e.time_us
         FROM termitary_events e JOIN termitary_routes r ON r.event = e.name
         WHERE {which}"
    )
}

static INSERT_DELIVERIES: LazyLock<String> =
    LazyLock::new(|| insert_deliveries_sql("e.seq BETWEEN $1 AND $2"));

const DELAY: &str = "
    UPDATE termitary_deliveries AS d SET due_us = j.value->>1
    FROM json_each($1) j WHERE d.event = j.value->>0";

/// Records the drafts and one pending delivery for each subscription that
/// their names reach, all within the caller's transaction. Answers in order.
pub(crate) async fn publish(
    conn: &mut SqliteConnection,
    source: &str,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error> {
    let unique = drafts.iter().all(|draft| draft.dedup.is_none());
    let routed = routed(conn, drafts).await?;
    let seqs = if unique {
        insert(conn, &PUBLISH, drafts, &routed).await?
    } else {
        let seqs = insert(conn, &INSERT_EVENTS, drafts, &routed).await?;
        owe(conn, &seqs).await?;
        seqs
    };
    delay(conn, drafts, &seqs).await?;
    let recorded = seqs.iter().flatten().count() as u64;
    metrics::counter!("termitary_events_published_total").increment(recorded);

    let mut answers = Vec::with_capacity(drafts.len());
    for (draft, seq) in drafts.iter().zip(seqs) {
        answers.push(match &draft.dedup {
            Some(dedup) if seq.is_none() => Published {
                id: first_with(conn, source, dedup).await?,
                duplicate: true,
            },
            _ => Published {
                id: draft.envelope.id,
                duplicate: false,
            },
        });
    }
    Ok(answers)
}

/// What is owed for the events that were inserted just now.
async fn owe(conn: &mut SqliteConnection, seqs: &[Option<i64>]) -> Result<(), Error> {
    let inserted = seqs.iter().flatten();
    let (Some(first), Some(last)) = (inserted.clone().min(), inserted.max()) else {
        return Ok(());
    };
    // Nobody else writes meanwhile: what lies between them is ours.
    sqlx::query(INSERT_DELIVERIES.as_str())
        .bind(first)
        .bind(last)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// What is not due at once.
async fn delay(
    conn: &mut SqliteConnection,
    drafts: &[Draft],
    seqs: &[Option<i64>],
) -> Result<(), Error> {
    let delayed: Vec<_> = drafts
        .iter()
        .zip(seqs)
        .filter(|(draft, _)| draft.due_us != draft.envelope.time.as_microsecond())
        .filter_map(|(draft, seq)| Some(json!([(*seq)?, draft.due_us])))
        .collect();
    if !delayed.is_empty() {
        sqlx::query(DELAY)
            .bind(json!(delayed).to_string())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Of the names of these events, those that somebody subscribes to.
async fn routed(conn: &mut SqliteConnection, drafts: &[Draft]) -> Result<HashSet<String>, Error> {
    let names: HashSet<_> = drafts.iter().map(|draft| &draft.envelope.name).collect();
    let names: String = sqlx::query_scalar(
        "SELECT json_group_array(DISTINCT event) FROM termitary_routes
         WHERE event IN (SELECT value FROM json_each($1))",
    )
    .bind(json!(names).to_string())
    .fetch_one(conn)
    .await?;
    gathered(&names)
}

/// Inserts event rows; answers the `seq` of each, in order, and `None` for a
/// duplicate.
async fn insert(
    conn: &mut SqliteConnection,
    statements: &'static [String],
    drafts: &[Draft],
    routed: &HashSet<String>,
) -> Result<Vec<Option<i64>>, Error> {
    let mut seqs = Vec::with_capacity(drafts.len());
    for chunk in drafts.chunks(ROWS) {
        let fanned = |name: &String| {
            if routed.contains(name) {
                WAITS
            } else {
                UNROUTED
            }
        };
        let query = insert_query(statements, chunk, fanned);
        let done = query.execute(&mut *conn).await?;
        let rows = chunk.len();
        let unique = chunk.iter().all(|draft| draft.dedup.is_none());
        if unique || done.rows_affected() == rows as u64 {
            seqs.extend(seqs_before(&done, rows).map(Some));
        } else {
            seqs.extend(seqs_of(conn, chunk).await?);
        }
    }
    Ok(seqs)
}

/// AUTOINCREMENT: one statement's rows follow each other.
pub(super) fn seqs_before(done: &SqliteQueryResult, rows: usize) -> Range<i64> {
    let after = done.last_insert_rowid() + 1;
    after - rows as i64..after
}

type Insert<'a> = Query<'a, Sqlite, SqliteArguments>;

/// Inserts up to [`ROWS`] of them, each with what `fanned` says of its name.
pub(super) fn insert_query<'a>(
    statements: &'static [String],
    drafts: &'a [Draft],
    fanned: impl Fn(&String) -> i64,
) -> Insert<'a> {
    let mut query = sqlx::query(statements[drafts.len() - 1].as_str());
    for Draft {
        envelope, dedup, ..
    } in drafts
    {
        query = query
            .bind(envelope.id)
            .bind(&envelope.name)
            .bind(i64::from(envelope.version))
            .bind(&envelope.source)
            .bind(envelope.time.as_microsecond())
            .bind(&envelope.key)
            .bind(&envelope.traceparent)
            .bind(envelope.cause)
            .bind(dedup)
            .bind(envelope.data.get())
            .bind(fanned(&envelope.name));
    }
    query
}

/// The rows of those that are no duplicates.
async fn seqs_of(conn: &mut SqliteConnection, drafts: &[Draft]) -> Result<Vec<Option<i64>>, Error> {
    let mut seqs = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let seq = sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
            .bind(draft.envelope.id)
            .fetch_optional(&mut *conn)
            .await?;
        seqs.push(seq);
    }
    Ok(seqs)
}

async fn first_with(conn: &mut SqliteConnection, source: &str, dedup: &str) -> Result<Uuid, Error> {
    Ok(
        sqlx::query_scalar("SELECT id FROM termitary_events WHERE source = $1 AND dedup = $2")
            .bind(source)
            .bind(dedup)
            .fetch_one(conn)
            .await?,
    )
}

/// Records an event that stands on its stream already, for all its subscriptions.
#[cfg(feature = "redis")]
pub(super) async fn insert_fanned(
    conn: &mut SqliteConnection,
    envelope: &Envelope,
) -> Result<i64, Error> {
    let draft = Draft {
        envelope: envelope.clone(),
        due_us: 0,
        dedup: None,
    };
    let query = insert_query(&INSERT_EVENTS, std::slice::from_ref(&draft), |_| FANNED);
    Ok(query.execute(conn).await?.last_insert_rowid())
}

#[cfg(feature = "redis")]
/// Keeps foreign input that nobody here can read, parked under [`BRIDGE`].
pub(crate) async fn park_foreign(
    conn: &mut SqliteConnection,
    draft: &Draft,
    reason: &str,
    error: &str,
) -> Result<(), Error> {
    let drafts = std::slice::from_ref(draft);
    let routed = routed(conn, drafts).await?;
    let seqs = insert(conn, &INSERT_EVENTS, drafts, &routed).await?;
    for seq in seqs.into_iter().flatten() {
        sqlx::query(
            "INSERT INTO termitary_deliveries (event, subscription, state, due_us, reason, error, settled_us)
             SELECT $1, id, $2, $3, $4, $5, $3 FROM termitary_subscriptions WHERE name = $6",
        )
        .bind(seq)
        .bind(state::PARKED)
        .bind(draft.due_us)
        .bind(reason)
        .bind(error)
        .bind(BRIDGE)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
