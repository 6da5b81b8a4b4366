//! Recording events and what is owed for them.

use std::sync::LazyLock;

use serde_json::json;
use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::error::Error;
use crate::publish::{Draft, Published};

use super::{SIZES, size_for};
#[cfg(feature = "redis")]
use super::{declare::BRIDGE, state};

/// Statement `i` inserts up to `SIZES[i]` events: what is not bound is null, and
/// skipped. Bound values cost a fraction of what the same rows as one JSON text
/// do.
static INSERT_EVENTS: LazyLock<Vec<String>> =
    LazyLock::new(|| SIZES.iter().map(|&rows| insert_events_sql(rows)).collect());

/// The same, and what is owed for them: two statements, one round trip to the
/// database's thread. For events that cannot be duplicates: their rows follow
/// each other.
static PUBLISH: LazyLock<Vec<String>> = LazyLock::new(|| {
    let owe = insert_deliveries_sql("e.seq > last_insert_rowid() - changes()");
    let both = |&rows: &usize| format!("{}; {owe}", insert_events_sql(rows));
    SIZES.iter().map(both).collect()
});

/// No numbered parameters: finding the name of one walks the list of all.
fn insert_events_sql(rows: usize) -> String {
    format!(
        "INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned)
         SELECT *, CASE WHEN EXISTS (SELECT 1 FROM termitary_routes r WHERE r.event = column2) THEN 0 ELSE -1 END
         FROM (VALUES {}) WHERE column1 IS NOT NULL
         ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING",
        vec!["(?,?,?,?,?,?,?,?,?,?)"; rows].join(",")
    )
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
    let seqs = if unique {
        insert(conn, &PUBLISH, drafts).await?
    } else {
        let seqs = insert_events(conn, drafts).await?;
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

/// Inserts event rows; answers the `seq` of each, in order, and `None` for a
/// duplicate.
pub(super) async fn insert_events(
    conn: &mut SqliteConnection,
    drafts: &[Draft],
) -> Result<Vec<Option<i64>>, Error> {
    insert(conn, &INSERT_EVENTS, drafts).await
}

async fn insert(
    conn: &mut SqliteConnection,
    statements: &'static [String],
    drafts: &[Draft],
) -> Result<Vec<Option<i64>>, Error> {
    let mut seqs = Vec::with_capacity(drafts.len());
    let mut rest = drafts;
    while !rest.is_empty() {
        let (place, rows) = size_for(rest.len());
        let (chunk, after) = rest.split_at(rows);
        seqs.extend(insert_chunk(conn, &statements[place], chunk).await?);
        rest = after;
    }
    Ok(seqs)
}

async fn insert_chunk(
    conn: &mut SqliteConnection,
    sql: &'static str,
    chunk: &[Draft],
) -> Result<Vec<Option<i64>>, Error> {
    let mut query = sqlx::query(sql);
    for Draft {
        envelope, dedup, ..
    } in chunk
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
            .bind(envelope.data.get());
    }
    let done = query.execute(&mut *conn).await?;
    let rows = chunk.len();
    let unique = chunk.iter().all(|draft| draft.dedup.is_none());
    if unique || done.rows_affected() == rows as u64 {
        // AUTOINCREMENT: one statement's rows follow each other.
        let after = done.last_insert_rowid() + 1;
        return Ok((after - rows as i64..after).map(Some).collect());
    }
    seqs_of(conn, chunk).await
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

#[cfg(feature = "redis")]
/// Keeps foreign input that nobody here can read, parked under [`BRIDGE`].
pub(crate) async fn park_foreign(
    conn: &mut SqliteConnection,
    draft: &Draft,
    reason: &str,
    error: &str,
) -> Result<(), Error> {
    let seqs = insert_events(conn, std::slice::from_ref(draft)).await?;
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
