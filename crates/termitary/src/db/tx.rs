//! A write transaction that can publish.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::Db;
use super::conn::Conn;
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::fault;

/// A write transaction. Dropped without [`Tx::commit`], it rolls back.
///
/// Statements run on it: `query.execute(&mut *tx)`. Code that needs sqlx's own connection, such as
/// a savepoint, begins with [`Conn::sqlite`]:
///
/// ```
/// use termitary::sqlx::Connection as _;
///
/// async fn all_or_none(tx: &mut termitary::Tx) -> Result<(), termitary::Error> {
///     let mut conn = tx.sqlite()?;
///     let mut savepoint = conn.begin().await?;
///     termitary::sqlx::query("UPDATE counters SET n = n + 1")
///         .execute(&mut *savepoint)
///         .await?;
///     savepoint.commit().await?;
///     Ok(())
/// }
/// ```
pub struct Tx {
    conn: Conn,
    db: Db,
    /// Published with the commit, together with those of others.
    drafts: Vec<Draft>,
    published: bool,
}

impl Tx {
    pub(super) fn new(conn: Conn, db: Db) -> Self {
        Self {
            conn,
            db,
            drafts: Vec::new(),
            published: false,
        }
    }

    /// Publishes an event that becomes real when this transaction commits, or
    /// never. Every registered subscription gets one delivery. Its rows are
    /// written with the commit, together with those of others.
    pub async fn publish<E: Event>(
        &mut self,
        event: impl Into<Outgoing<E>>,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), self.db.as_source())?;
        self.publish_draft(draft).await
    }

    /// Publishes by name, for events without a type in this program.
    pub async fn publish_json(&mut self, name: &str, data: &str) -> Result<Published, Error> {
        let draft = Draft::untyped(name, data.to_owned(), self.db.as_source())?;
        self.publish_draft(draft).await
    }

    async fn publish_draft(&mut self, draft: Draft) -> Result<Published, Error> {
        self.published = true;
        if draft.dedup.is_none() {
            // Nothing about it has to be asked now.
            let id = draft.envelope.id;
            self.drafts.push(draft);
            return Ok(Published {
                id,
                duplicate: false,
            });
        }
        let mut answers =
            crate::ledger::publish(&mut self.conn, self.db.source(), &[draft]).await?;
        answers
            .pop()
            .ok_or_else(|| Error::internal("the ledger answered nothing"))
    }

    /// Makes everything of this transaction real.
    ///
    /// If others wait to write already, it shares their commit: an error of the disk then affects
    /// all of them.
    pub async fn commit(self) -> Result<(), Error> {
        if !self.published {
            return self.conn.commit(self.drafts).await;
        }
        fault::point!("publish.before_commit");
        self.conn.commit(self.drafts).await?;
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

    /// Undoes everything of this transaction.
    pub async fn rollback(self) -> Result<(), Error> {
        self.conn.rollback().await
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}
