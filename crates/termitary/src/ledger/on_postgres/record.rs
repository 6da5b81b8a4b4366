//! Recording events and the deliveries that are owed for them.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::super::publish::count;
use super::super::settle::without_zeros as storable;
use super::super::{Committed, Trust};
use crate::draft::{Draft, Published};
use crate::error::Error;

/// The rows of the largest statement.
const ROWS: usize = 500;

/// The events of arrays: the transaction has its id before an event has its `seq` (see
/// `Horizon`), and events get their `seq` in order.
macro_rules! events {
    (waits) => {
        events!("CASE WHEN EXISTS (SELECT 1 FROM termitary_routes r WHERE r.event = d.name) THEN 0 ELSE -1 END")
    };
    ($fanned:literal) => {
        events!($fanned, "(source, dedup) WHERE dedup IS NOT NULL")
    };
    ($fanned:literal, $known:literal) => {
        events!($fanned, $known, "began.xid")
    };
    ($fanned:literal, $known:literal, $xid:literal) => {
        concat!(
            "WITH began AS MATERIALIZED (SELECT pg_current_xact_id() AS xid),
             d AS MATERIALIZED (SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[],
                $6::text[], $7::text[], $8::uuid[], $9::text[], $10::text[]) WITH ORDINALITY
                AS d (id, name, version, source, time_us, key, traceparent, cause, dedup, data, place)),
             e AS (INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned, xid)
                SELECT d.id, d.name, d.version, d.source, d.time_us, d.key, d.traceparent, d.cause, d.dedup, d.data, ",
            $fanned,
            ", ",
            $xid,
            " FROM began, d ORDER BY d.place
                ON CONFLICT ",
            $known,
            " DO NOTHING
                RETURNING seq, id, name, time_us)"
        )
    };
}

/// An event that the relay has not put on its stream, and its deliveries.
const RECORD: &str = concat!(
    events!(waits),
    ", owed AS (INSERT INTO termitary_deliveries (event, subscription, due_us, state)
        SELECT e.seq, r.subscription, e.time_us, 0 FROM e JOIN termitary_routes r ON r.event = e.name)
     SELECT id, seq FROM e"
);

/// An event that came from its stream, which carries it to every subscription: no snapshot
/// hides it, so that it is in no gap of a subscription (see `backfill`).
const FANNED: &str = concat!(events!("1", "(id)", "'3'::xid8"), " SELECT id, seq FROM e");

/// Leases the deliveries to the relay, until `$11`.
const LEASE: &str = concat!(
    events!("1"),
    ", owed AS (INSERT INTO termitary_deliveries (event, subscription, due_us, state, worker, lease_us, fence)
        SELECT e.seq, r.subscription, e.time_us, 1, 'relay', $11, 1 FROM e JOIN termitary_routes r ON r.event = e.name)
     SELECT id, seq FROM e"
);

/// Delays the deliveries of events that are not due at once.
const DELAY: &str = "UPDATE termitary_deliveries AS d SET due_us = l.due_us
    FROM unnest($1::bigint[], $2::bigint[]) AS l (event, due_us) WHERE d.event = l.event";

const FIRST: &str = "SELECT id FROM termitary_events WHERE source = $1 AND dedup = $2";

type Query<'a> = sqlx::query::QueryAs<'a, sqlx::Postgres, (Uuid, i64), sqlx::postgres::PgArguments>;

/// A statement with the columns of these drafts.
fn insert<'a>(sql: &'static str, drafts: &'a [Draft]) -> Query<'a> {
    fn column<'a, T>(drafts: &'a [Draft], of: impl Fn(&'a Draft) -> T) -> Vec<T> {
        drafts.iter().map(of).collect()
    }
    sqlx::query_as(sql)
        .bind(column(drafts, |it| it.envelope.id))
        .bind(column(drafts, |it| storable(&it.envelope.name)))
        .bind(column(drafts, |it| i64::from(it.envelope.version)))
        .bind(column(drafts, |it| storable(&it.envelope.source)))
        .bind(column(drafts, |it| it.envelope.time.as_microsecond()))
        .bind(column(drafts, |it| {
            it.envelope.key.as_deref().map(storable)
        }))
        .bind(column(drafts, |it| {
            it.envelope.traceparent.as_deref().map(storable)
        }))
        .bind(column(drafts, |it| it.envelope.cause))
        .bind(column(drafts, |it| it.dedup.as_deref()))
        .bind(column(drafts, |it| it.envelope.data.get()))
}

/// Records the drafts and one pending delivery for each subscription that their names
/// reach. Returns the receipts in order.
pub(in crate::ledger) async fn record(
    conn: &mut PgConnection,
    source: &str,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error> {
    let mut published = Vec::with_capacity(drafts.len());
    for chunk in drafts.chunks(ROWS) {
        let recorded = insert(RECORD, chunk).fetch_all(&mut *conn).await?;
        let seqs: HashMap<_, _> = recorded.into_iter().collect();
        delay(conn, chunk, &seqs).await?;
        count(seqs.len());
        for draft in chunk {
            let id = draft.envelope.id;
            published.push(match &draft.dedup {
                Some(dedup) if !seqs.contains_key(&id) => Published {
                    id: first_with(conn, source, dedup).await?,
                    duplicate: true,
                },
                _ => Published {
                    id,
                    duplicate: false,
                },
            });
        }
    }
    Ok(published)
}

/// Returns whether [`record`] needs no transaction: one statement records everything.
pub(in crate::ledger) fn is_one_statement(drafts: &[Draft]) -> bool {
    drafts.len() <= ROWS && drafts.iter().all(Draft::is_due_now)
}

async fn delay(
    conn: &mut PgConnection,
    drafts: &[Draft],
    seqs: &HashMap<Uuid, i64>,
) -> Result<(), Error> {
    let delayed = drafts.iter().filter(|draft| !draft.is_due_now());
    let delayed = delayed.filter_map(|it| Some((*seqs.get(&it.envelope.id)?, it.due_us)));
    let (events, dues): (Vec<_>, Vec<_>) = delayed.unzip();
    if !events.is_empty() {
        sqlx::query(DELAY)
            .bind(events)
            .bind(dues)
            .execute(conn)
            .await?;
    }
    Ok(())
}

async fn first_with(conn: &mut PgConnection, source: &str, dedup: &str) -> Result<Uuid, Error> {
    Ok(sqlx::query_scalar(FIRST)
        .bind(source)
        .bind(dedup)
        .fetch_one(conn)
        .await?)
}

/// Records one event that is on its stream already, for all its subscriptions; returns
/// its `seq`.
pub(in crate::ledger) async fn record_fanned(
    conn: &mut PgConnection,
    draft: &Draft,
) -> Result<i64, Error> {
    let inserted = insert(FANNED, std::slice::from_ref(draft))
        .fetch_optional(&mut *conn)
        .await?;
    if let Some((_, seq)) = inserted {
        return Ok(seq);
    }
    // Another process was first.
    Ok(
        sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
            .bind(draft.envelope.id)
            .fetch_one(conn)
            .await?,
    )
}

/// Records the drafts without any delivery, also for a subscription in whose gap they
/// would be; returns the `seq` of each, in order, and
/// `None` for a duplicate.
pub(in crate::ledger) async fn record_bare(
    conn: &mut PgConnection,
    drafts: &[Draft],
) -> Result<Vec<Option<i64>>, Error> {
    const BARE: &str = concat!(
        events!("-1", "(source, dedup) WHERE dedup IS NOT NULL", "'3'::xid8"),
        " SELECT id, seq FROM e"
    );
    let mut seqs = Vec::with_capacity(drafts.len());
    for chunk in drafts.chunks(ROWS) {
        let recorded = insert(BARE, chunk).fetch_all(&mut *conn).await?;
        let recorded: HashMap<_, _> = recorded.into_iter().collect();
        seqs.extend(
            chunk
                .iter()
                .map(|it| recorded.get(&it.envelope.id).copied()),
        );
    }
    Ok(seqs)
}

/// Records the drafts; leases to the relay those that can run now and that the committing
/// process may bring to Redis itself, and returns them.
pub(in crate::ledger) async fn lease(
    conn: &mut PgConnection,
    source: &str,
    drafts: Vec<Draft>,
    trust: Trust,
) -> Result<Option<Committed>, Error> {
    let is_trusted =
        |draft: &Draft| draft.is_due_now() && trust.reached.contains_key(&draft.envelope.name);
    let (trusted, left): (Vec<_>, Vec<_>) = drafts.into_iter().partition(is_trusted);
    record(conn, source, &left).await?;
    if trusted.is_empty() {
        return Ok(None);
    }
    let mut events = Vec::with_capacity(trusted.len());
    for chunk in trusted.chunks(ROWS) {
        let leased = insert(LEASE, chunk).bind(trust.until_us);
        let seqs: HashMap<_, _> = leased.fetch_all(&mut *conn).await?.into_iter().collect();
        let chunk = chunk.iter().map(|draft| &draft.envelope);
        events.extend(chunk.filter_map(|it| Some((*seqs.get(&it.id)?, it.clone()))));
    }
    count(events.len());
    Ok(Some(Committed { events, trust }))
}
