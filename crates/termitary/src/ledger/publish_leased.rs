//! Recording events that are taken on to Redis by whoever commits them: leased
//! to the relay from the start, which saves it the look, the claim and a commit.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::json;
use sqlx::SqliteConnection;

use super::gathered;
use super::publish::{FANNED, ROWS, insert_query, publish, seqs_before, sized};
use crate::db::{Cargo, Trust};
use crate::error::Error;
use crate::publish::Draft;

/// Events and what is owed for them, under the first fence; what is bound last is
/// until when.
static PUBLISH: LazyLock<Vec<String>> = LazyLock::new(|| {
    sized(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us, worker, lease_us, fence)
         SELECT e.seq, r.subscription, 1, e.time_us, 'relay', ?, 1
         FROM termitary_events e JOIN termitary_routes r ON r.event = e.name
         WHERE e.seq > last_insert_rowid() - changes()",
    )
});

/// Records the drafts, none of which can be a duplicate, like [`publish`];
/// answers those that are the caller's to take on.
pub(crate) async fn publish_leased(
    conn: &mut SqliteConnection,
    source: &str,
    drafts: Vec<Draft>,
    trust: &Trust,
) -> Result<Option<Cargo>, Error> {
    let reached = reached(conn, &drafts, trust.live_since_us).await?;
    let taken_on = |draft: &Draft| {
        let due_now = draft.due_us == draft.envelope.time.as_microsecond();
        due_now && reached.contains(&draft.envelope.name)
    };
    let (taken, left): (Vec<_>, Vec<_>) = drafts.into_iter().partition(taken_on);
    if !left.is_empty() {
        publish(conn, source, &left).await?;
    }
    if taken.is_empty() {
        return Ok(None);
    }
    let (mut seqs, mut deliveries) = (Vec::with_capacity(taken.len()), 0);
    for chunk in taken.chunks(ROWS) {
        let query = insert_query(&PUBLISH, chunk, |_| FANNED).bind(trust.until_us);
        let done = query.execute(&mut *conn).await?;
        seqs.extend(seqs_before(&done, chunk.len()));
        deliveries += done.rows_affected().saturating_sub(chunk.len() as u64);
    }
    metrics::counter!("termitary_events_published_total").increment(taken.len() as u64);
    let envelopes = taken.into_iter().map(|draft| draft.envelope);
    Ok(Some(Cargo {
        events: seqs.into_iter().zip(envelopes).collect(),
        deliveries,
        until_us: trust.until_us,
    }))
}

/// Of the names of these events, those that somebody subscribes to; none where
/// no worker was heard of since.
async fn reached(
    conn: &mut SqliteConnection,
    drafts: &[Draft],
    since_us: i64,
) -> Result<HashSet<String>, Error> {
    let names: HashSet<_> = drafts.iter().map(|draft| &draft.envelope.name).collect();
    let names: String = sqlx::query_scalar(
        "SELECT json_group_array(DISTINCT event) FROM termitary_routes
         WHERE event IN (SELECT value FROM json_each($1))
           AND EXISTS (SELECT 1 FROM termitary_workers WHERE seen_us >= $2)",
    )
    .bind(json!(names).to_string())
    .bind(since_us)
    .fetch_one(conn)
    .await?;
    gathered(&names)
}
