//! Recording events and the deliveries that are owed for them.

use sqlx::Executor;
use uuid::Uuid;

use crate::db::{Conn, Sql};
use crate::draft::{Draft, Published};
#[cfg(feature = "postgres")]
use crate::engine::EngineKind;
use crate::error::Error;

use super::declare::BRIDGE;
use super::insert::{FANNED, Inserts, WAITS, owed, owed_now};
use super::rows::{Bytes, known_or_stand_in};
use super::sql::{Statement, json, piece, statement};
use super::state;
use crate::event::Envelope;

static EVENTS: Inserts = Inserts::new("", WAITS, "");
/// For events that cannot be duplicates.
static PUBLISH: Inserts = Inserts::new("", WAITS, owed_now!(pending));
const OWE: &str = owed!(pending, "e.seq BETWEEN $1 AND $2");

const DELAY: &str = concat!(
    "UPDATE termitary_deliveries AS d SET due_us = ",
    piece!(sqlite [int 1]),
    " FROM ",
    piece!(sqlite[rows]),
    " WHERE d.event = ",
    piece!(sqlite [int 0])
);

/// Records the drafts and one pending delivery for each subscription that their names
/// reach, all within the caller's transaction. Returns the receipts in order.
pub(crate) async fn publish(
    conn: &mut Conn,
    source: &str,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error> {
    #[cfg(feature = "postgres")]
    if conn.engine() == EngineKind::Postgres {
        return super::on_postgres::record(conn.postgres()?, source, drafts).await;
    }
    publish_on_sqlite(conn, source, drafts).await
}

/// The same in a transaction on PostgreSQL that is not ours.
#[cfg(feature = "postgres")]
pub(crate) async fn publish_on_postgres(
    db: &crate::db::Db,
    conn: &mut sqlx::PgConnection,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error> {
    let crate::engine::Engine::Postgres(engine) = db.engine() else {
        return Err(Error::invalid(
            "the transaction is on PostgreSQL, and the ledger on SQLite: use one database for both",
        ));
    };
    let search_path = engine.show_ledger(conn).await?;
    let published = super::on_postgres::record(conn, db.source(), drafts).await?;
    if let Some(search_path) = search_path {
        engine.hide_ledger(conn, &search_path).await?;
    }
    Ok(published)
}

/// The same on SQLite, also in a transaction that is not ours.
pub(crate) async fn publish_on_sqlite<C: Send>(
    conn: &mut C,
    source: &str,
    drafts: &[Draft],
) -> Result<Vec<Published>, Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sql>,
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
    for<'c> &'c mut C: Executor<'c, Database = Sql>,
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
    for<'c> &'c mut C: Executor<'c, Database = Sql>,
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
    for<'c> &'c mut C: Executor<'c, Database = Sql>,
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
    #[cfg(feature = "postgres")]
    if conn.engine() == EngineKind::Postgres {
        return super::on_postgres::record_fanned(conn.postgres()?, &draft).await;
    }
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

/// Records events without any delivery; returns the `seq` of each, in order, and `None`
/// for a duplicate.
async fn record_bare(conn: &mut Conn, drafts: &[Draft]) -> Result<Vec<Option<i64>>, Error> {
    #[cfg(feature = "postgres")]
    if conn.engine() == EngineKind::Postgres {
        return super::on_postgres::record_bare(conn.postgres()?, drafts).await;
    }
    EVENTS.run(conn, drafts).await
}

const PARK_FOREIGN: Statement = statement!(
    "INSERT INTO termitary_deliveries (event, subscription, state, due_us, reason, error, settled_us)
     SELECT ", [int 0], ", s.id, $2, ", [int 1], ", ", [text 2], ", ", [text 3], ", ", [int 1], "
     FROM ", [rows], " JOIN termitary_subscriptions s ON s.name = $3"
);

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
    let seqs = record_bare(conn, &drafts).await?;
    let rows = seqs.iter().zip(&drafts).zip(&whys);
    let rows: Vec<_> = rows
        .filter_map(|((seq, draft), (reason, error))| Some(((*seq)?, draft.due_us, reason, error)))
        .collect();
    sqlx::query(PARK_FOREIGN.on(conn))
        .bind(json(&rows))
        .bind(state::PARKED)
        .bind(BRIDGE)
        .execute(&mut *conn)
        .await?;
    Ok(())
}
