//! Publishing inside a plain sqlx transaction.

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction};

use crate::db::Db;
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::{Event, Outgoing};

/// Publishing inside a plain sqlx transaction, for code that does not use
/// [`Tx`](crate::Tx). Deliveries are then found by polling, not by a nudge.
#[async_trait]
pub trait Publish {
    /// Publishes an event that becomes real when the transaction commits.
    async fn publish<E: Event>(
        &mut self,
        db: &Db,
        event: impl Into<Outgoing<E>> + Send,
    ) -> Result<Published, Error>;
}

#[async_trait]
impl Publish for Transaction<'_, Sqlite> {
    async fn publish<E: Event>(
        &mut self,
        db: &Db,
        event: impl Into<Outgoing<E>> + Send,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), db.as_source())?;
        let mut answers = crate::ledger::publish(&mut **self, db.source(), &[draft]).await?;
        answers
            .pop()
            .ok_or_else(|| Error::internal("the ledger answered nothing"))
    }
}
