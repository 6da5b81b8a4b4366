//! A write transaction that can publish.

use std::ops::{Deref, DerefMut};

use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::Db;
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::fault;
use crate::publish::{Draft, Published};

/// A write transaction. Dropped without [`Tx::commit`], it rolls back.
///
/// It dereferences to the connection: `query.execute(&mut *tx)`.
pub struct Tx {
    inner: Transaction<'static, Sqlite>,
    db: Db,
    published: bool,
}

impl Tx {
    pub(super) async fn begin(db: Db) -> Result<Self, Error> {
        // A begin that is dropped half-way could leave its transaction open on
        // the pooled connection. In a task of its own it always finishes; if
        // nobody waits any more, the transaction is dropped whole and rolls back.
        // IMMEDIATE: a transaction that reads first and writes later would fail
        // with SQLITE_BUSY at once, whatever the busy timeout.
        let pool = db.writer().clone();
        let inner = tokio::spawn(async move { pool.begin_with("BEGIN IMMEDIATE").await })
            .await
            .map_err(|error| Error::internal("the runtime stopped").caused_by(error))??;
        Ok(Self {
            inner,
            db,
            published: false,
        })
    }

    /// Publishes an event that becomes real when this transaction commits, or
    /// never. Every registered subscription gets one delivery.
    pub async fn publish<E: Event>(
        &mut self,
        event: impl Into<Outgoing<E>>,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), &self.db)?;
        self.publish_draft(draft).await
    }

    /// Publishes by name, for events whose type this code does not know.
    pub async fn publish_json(&mut self, name: &str, data: &str) -> Result<Published, Error> {
        let draft = Draft::untyped(name, data.to_owned(), &self.db)?;
        self.publish_draft(draft).await
    }

    async fn publish_draft(&mut self, draft: Draft) -> Result<Published, Error> {
        let mut answers = crate::ledger::publish(&mut self.inner, &self.db, &[draft]).await?;
        self.published = true;
        answers
            .pop()
            .ok_or_else(|| Error::internal("the ledger answered nothing"))
    }

    /// Makes everything of this transaction real.
    pub async fn commit(self) -> Result<(), Error> {
        if !self.published {
            return Ok(self.inner.commit().await?);
        }
        fault::point!("publish.before_commit");
        self.inner.commit().await?;
        fault::point!("publish.after_commit");
        self.db.published().notify_waiters();
        fault::point!("publish.told");
        Ok(())
    }

    /// [`Tx::commit`] for code of this crate that published through the ledger.
    pub(crate) async fn commit_and_wake(mut self) -> Result<(), Error> {
        self.published = true;
        self.commit().await
    }

    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// Undoes everything of this transaction.
    pub async fn rollback(self) -> Result<(), Error> {
        Ok(self.inner.rollback().await?)
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }
}
