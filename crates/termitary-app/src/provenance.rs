//! The actor and the viewers of an event.
//!
//! The services that read events fix their payloads, which name neither. So both are
//! written beside the event, in its transaction.

use jiff::Timestamp;
use sqlx::{Execute as _, QueryBuilder};
use termitary::db::{Dialect, Sql};
use termitary::{Conn, Event, Tx};
use uuid::Uuid;

/// The user who caused an event, and the users who may see it besides admins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) actor: Option<Uuid>,
    pub(crate) viewers: Vec<Uuid>,
}

impl Provenance {
    /// The provenance of an event that `actor` caused.
    pub(crate) fn by(actor: Uuid, viewers: Vec<Uuid>) -> Self {
        Self {
            actor: Some(actor),
            viewers,
        }
    }

    /// The provenance of an event without a known actor.
    pub(crate) fn by_nobody(viewers: Vec<Uuid>) -> Self {
        Self {
            actor: None,
            viewers,
        }
    }
}

/// Publishes `event`, which is about `subject`, and writes its provenance.
pub(crate) async fn publish<E: Event>(
    tx: &mut Tx,
    event: E,
    subject: Uuid,
    provenance: Provenance,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let nothing = QueryBuilder::default();
    change_and_publish(tx, nothing, event, subject, provenance, now).await
}

/// Runs the `change` that `event` tells of, and publishes it. The way to the database's
/// thread and back costs more than the statements, and other transactions wait: so the
/// change and the provenance go together.
pub(crate) async fn change_and_publish<E: Event>(
    tx: &mut Tx,
    mut change: QueryBuilder<Sql>,
    event: E,
    subject: Uuid,
    provenance: Provenance,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let published = tx.publish(event.keyed(subject)).await?;
    let viewers: Vec<String> = provenance.viewers.iter().map(Uuid::to_string).collect();
    if !change.sql().as_str().is_empty() {
        change = before_another(change, tx.dialect())?;
    }
    change.push("INSERT INTO provenance (event, actor, viewers, at_us) VALUES (");
    change
        .separated(", ")
        .push_bind(published.id)
        .push_bind(provenance.actor)
        .push_bind(serde_json::json!(viewers).to_string())
        .push_bind(now.as_microsecond());
    change.push(")").build().execute(&mut *tx).await?;
    Ok(())
}

/// The statement with another one to follow, which go to the database together.
fn before_another(
    mut first: QueryBuilder<Sql>,
    dialect: Dialect,
) -> Result<QueryBuilder<Sql>, sqlx::Error> {
    if dialect == Dialect::Sqlite {
        first.push("; ");
        return Ok(first);
    }
    let mut query = first.build();
    let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
    let text = format!("WITH first AS ({}) ", query.sql().as_str());
    Ok(QueryBuilder::with_arguments(
        text,
        arguments.unwrap_or_default(),
    ))
}

/// The provenance of an event; `None` if another service published it.
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

/// Deletes provenance written before `before_us`.
pub(crate) async fn delete_before(conn: &mut Conn, before_us: i64) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM provenance WHERE at_us < $1")
        .bind(before_us)
        .execute(conn)
        .await
        .map(drop)
}
