//! Recording events and the deliveries that are owed for them.

use sqlx::{Executor, Sqlite};
use uuid::Uuid;

use crate::db::Conn;
use crate::draft::{Draft, Published};
use crate::error::Error;

use super::declare::BRIDGE;
use super::insert::{FANNED, Inserts, WAITS, owed, owed_now};
use super::rows::{Bytes, known_or_stand_in};
use super::sql::{column, json, rows};
use super::state;
use crate::event::Envelope;

static EVENTS: Inserts = Inserts::new("", WAITS, "");
/// For events that cannot be duplicates.
static PUBLISH: Inserts = Inserts::new("", WAITS, owed_now!(pending));
const OWE: &str = owed!(pending, "e.seq BETWEEN $1 AND $2");

const DELAY: &str = concat!(
    "UPDATE termitary_deliveries AS d SET due_us = ",
    column!(1),
    " FROM ",
    rows!(),
    " WHERE d.event = ",
    column!(0)
);

/// Records the drafts and one pending delivery for each subscription that their names
/// reach, all within the caller's transaction. Returns the receipts in order.
pub(crate) async fn publish<C: Send>(
    conn: &mut C,
    source: &str,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sqlite>,
{
    let unique = drafts.iter().all(|draft| draft.dedup.is_none());
    let seqs = if unique {
        PUBLISH.run(conn, drafts).await?
    } else {
        let seqs = EVENTS.run(conn, drafts).await?;
        owe(conn, &seqs).await?;
        seqs
    };
    delay(conn, drafts, &seqs).await?;
    count(seqs.iter().flatten().count());

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

pub(super) fn count(published: usize) {
    metrics::counter!("termitary_events_published_total").increment(published as u64);
}

/// Owes the deliveries of the events that were inserted just now.
async fn owe<C: Send>(conn: &mut C, seqs: &[Option<i64>]) -> Result<(), Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sqlite>,
{
    let inserted = seqs.iter().flatten();
    let (Some(first), Some(last)) = (inserted.clone().min(), inserted.max()) else {
        return Ok(());
    };
    // Nobody else writes meanwhile: what lies between them is ours.
    sqlx::query(OWE)
        .bind(first)
        .bind(last)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// Delays the deliveries that are not due at once.
async fn delay<C: Send>(conn: &mut C, drafts: &[Draft], seqs: &[Option<i64>]) -> Result<(), Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sqlite>,
{
    let delayed: Vec<_> = drafts
        .iter()
        .zip(seqs)
        .filter(|(draft, _)| !draft.is_due_now())
        .filter_map(|(draft, seq)| Some(((*seq)?, draft.due_us)))
        .collect();
    if !delayed.is_empty() {
        sqlx::query(DELAY)
            .bind(json(&delayed))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn first_with<C: Send>(conn: &mut C, source: &str, dedup: &str) -> Result<Uuid, Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sqlite>,
{
    let (seq, id): (i64, Bytes) =
        sqlx::query_as("SELECT seq, id FROM termitary_events WHERE source = $1 AND dedup = $2")
            .bind(source)
            .bind(dedup)
            .fetch_one(conn)
            .await?;
    Ok(known_or_stand_in(Some(&id), seq))
}

/// Records an event that is on its stream already, for all its subscriptions.
pub(super) async fn insert_fanned(conn: &mut Conn, envelope: &Envelope) -> Result<i64, Error> {
    static FANNED_EVENTS: Inserts = Inserts::new("", FANNED, "");
    let draft = Draft {
        envelope: envelope.clone(),
        due_us: 0,
        dedup: None,
    };
    let query = FANNED_EVENTS.query(std::slice::from_ref(&draft));
    Ok(query.execute(conn).await?.last_insert_rowid())
}

/// Input from outside that no program here can read.
#[derive(Clone)]
pub(crate) struct Parked {
    pub(crate) draft: Draft,
    pub(crate) reason: &'static str,
    pub(crate) error: String,
}

/// Keeps input from outside that no program here can read, parked under [`BRIDGE`].
pub(crate) async fn park_foreign(conn: &mut Conn, parked: Vec<Parked>) -> Result<(), Error> {
    if parked.is_empty() {
        return Ok(());
    }
    let mut drafts = Vec::with_capacity(parked.len());
    let mut whys = Vec::with_capacity(parked.len());
    for one in parked {
        drafts.push(one.draft);
        whys.push((one.reason, one.error));
    }
    let seqs = EVENTS.run(conn, &drafts).await?;
    let rows = seqs.iter().zip(&drafts).zip(&whys);
    let rows: Vec<_> = rows
        .filter_map(|((seq, draft), (reason, error))| Some(((*seq)?, draft.due_us, reason, error)))
        .collect();
    sqlx::query(concat!(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us, reason, error, settled_us)
         SELECT ", column!(0), ", s.id, $2, ", column!(1), ", ", column!(2), ", ", column!(3), ", ", column!(1), "
         FROM ", rows!(), " JOIN termitary_subscriptions s ON s.name = $3"
    ))
    .bind(json(&rows))
    .bind(state::PARKED)
    .bind(BRIDGE)
    .execute(&mut *conn)
    .await?;
    Ok(())
}
