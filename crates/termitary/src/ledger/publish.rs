//! Recording events and what is owed for them.

use std::collections::HashMap;

use serde_json::json;
use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::db::Db;
use crate::error::Error;
use crate::publish::{Draft, Published};

#[cfg(feature = "redis")]
use super::{declare::BRIDGE, state};

const INSERT_EVENTS: &str = "
    INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned)
    SELECT unhex(value->>0), value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, unhex(value->>7), value->>8, value->>9,
           CASE WHEN EXISTS (SELECT 1 FROM termitary_routes r WHERE r.event = value->>1) THEN 0 ELSE -1 END
    FROM json_each($1) WHERE true
    ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING
    RETURNING seq, id";

const INSERT_DELIVERIES: &str = "
    INSERT INTO termitary_deliveries (event, subscription, state, due_us)
    SELECT j.value->>0, r.subscription, 0, j.value->>2
    FROM json_each($1) j JOIN termitary_routes r ON r.event = j.value->>1";

/// Records the drafts and one pending delivery for each subscription that
/// their names reach, all within the caller's transaction. Answers in order.
pub(crate) async fn publish(
    conn: &mut SqliteConnection,
    db: &Db,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error> {
    let seqs = insert_events(conn, drafts).await?;
    let owed: Vec<_> = drafts
        .iter()
        .filter_map(|draft| {
            let seq = seqs.get(&draft.envelope.id)?;
            Some(json!([seq, draft.envelope.name, draft.due_us]))
        })
        .collect();
    sqlx::query(INSERT_DELIVERIES)
        .bind(json!(owed).to_string())
        .execute(&mut *conn)
        .await?;
    metrics::counter!("termitary_events_published_total").increment(owed.len() as u64);

    let mut answers = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let id = draft.envelope.id;
        answers.push(match &draft.dedup {
            Some(dedup) if !seqs.contains_key(&id) => Published {
                id: first_with(conn, db.source(), dedup).await?,
                duplicate: true,
            },
            _ => Published {
                id,
                duplicate: false,
            },
        });
    }
    Ok(answers)
}

/// Inserts event rows; answers the `seq` of each that was not a duplicate.
pub(super) async fn insert_events(
    conn: &mut SqliteConnection,
    drafts: &[Draft],
) -> Result<HashMap<Uuid, i64>, Error> {
    let rows: Vec<_> = drafts
        .iter()
        .map(
            |Draft {
                 envelope: e, dedup, ..
             }| {
                json!([
                    e.id.simple().to_string(),
                    e.name,
                    e.version,
                    e.source,
                    e.time.as_microsecond(),
                    e.key,
                    e.traceparent,
                    e.cause.map(|cause| cause.simple().to_string()),
                    dedup,
                    e.data.get(),
                ])
            },
        )
        .collect();
    let inserted: Vec<(i64, Uuid)> = sqlx::query_as(INSERT_EVENTS)
        .bind(json!(rows).to_string())
        .fetch_all(conn)
        .await?;
    Ok(inserted.into_iter().map(|(seq, id)| (id, seq)).collect())
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
    for seq in seqs.values() {
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
