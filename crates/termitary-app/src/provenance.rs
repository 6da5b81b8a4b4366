//! Who did what an event says, and who may see it.
//!
//! The payloads are fixed by the services that read them and name neither, so
//! both are written beside the event, in its transaction.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite};
use termitary::{Conn, Event, Tx};
use uuid::Uuid;

/// What is known about an event besides itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) actor: Option<Uuid>,
    pub(crate) viewers: Vec<Uuid>,
}

impl Provenance {
    /// Of what `actor` did.
    pub(crate) fn by(actor: Uuid, viewers: Vec<Uuid>) -> Self {
        Self {
            actor: Some(actor),
            viewers,
        }
    }

    /// Of what came about without anybody, as far as is known.
    pub(crate) fn by_nobody(viewers: Vec<Uuid>) -> Self {
        Self {
            actor: None,
            viewers,
        }
    }
}

/// Publishes `event`, which is about `subject`, and notes what is `known` of it.
pub(crate) async fn publish<E: Event>(
    tx: &mut Tx,
    event: E,
    subject: Uuid,
    known: Provenance,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let nothing = QueryBuilder::default();
    change_and_publish(tx, nothing, event, subject, known, now).await
}

/// Makes the `change` that `event` tells of, and publishes it. The way to the
/// database's thread and back costs more than what is done there, and others
/// wait for their turn: the change and the note go together.
pub(crate) async fn change_and_publish<E: Event>(
    tx: &mut Tx,
    mut change: QueryBuilder<Sqlite>,
    event: E,
    subject: Uuid,
    known: Provenance,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let published = tx.publish(event.keyed(subject)).await?;
    let viewers: Vec<String> = known.viewers.iter().map(Uuid::to_string).collect();
    if !change.sql().as_str().is_empty() {
        change.push("; ");
    }
    change.push("INSERT INTO provenance (event, actor, viewers, at_us) VALUES (");
    change
        .separated(", ")
        .push_bind(published.id)
        .push_bind(known.actor)
        .push_bind(serde_json::json!(viewers).to_string())
        .push_bind(now.as_microsecond());
    change.push(")").build().execute(&mut *tx).await?;
    Ok(())
}

/// What is known about an event; none for those that other services published.
pub(crate) async fn of(conn: &mut Conn, event: Uuid) -> sqlx::Result<Option<Provenance>> {
    let row: Option<(Option<Uuid>, String)> =
        sqlx::query_as("SELECT actor, viewers FROM provenance WHERE event = $1")
            .bind(event)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(actor, viewers)| Provenance {
        actor,
        viewers: serde_json::from_str(&viewers).unwrap_or_default(),
    }))
}

/// Removes what was noted before `before_us`.
pub(crate) async fn forget(conn: &mut Conn, before_us: i64) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM provenance WHERE at_us < $1")
        .bind(before_us)
        .execute(conn)
        .await
        .map(drop)
}
