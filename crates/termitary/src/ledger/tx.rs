//! A write transaction that can publish.

use std::fmt;
use std::ops::{Deref, DerefMut};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::{Describe, Either, Execute, Executor, SqlStr};

use super::Db;
use crate::draft::{Draft, Published};
use crate::engine::sql::{Sql, SqlQueryResult, SqlRow, SqlStatement, SqlTypeInfo};
use crate::engine::sqlite::Work;
use crate::engine::{Conn, EngineKind};
use crate::error::Error;
use crate::event::{Event, Outgoing};
use crate::fault;

/// A write transaction. Dropped without [`Tx::commit`], it rolls back.
///
/// Statements run on it: `query.execute(&mut *tx)`, on SQLite and on PostgreSQL. A
/// savepoint is a transaction in it:
///
/// ```
/// use termitary::sqlx::Connection as _;
///
/// async fn all_or_none(tx: &mut termitary::Tx) -> Result<(), termitary::Error> {
///     let mut savepoint = tx.begin().await?;
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

    /// Publishes an event that becomes real when this transaction commits, or never.
    /// Every registered subscription gets one delivery. The rows are written with the
    /// commit, together with those of others.
    ///
    /// # Errors
    ///
    /// `is_invalid()` if the event, its key or its id cannot be stored.
    pub async fn publish<E: Event>(
        &mut self,
        event: impl Into<Outgoing<E>>,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), self.db.as_source())?;
        self.publish_draft(draft).await
    }

    /// Publishes by name, for events without a type in this program.
    ///
    /// # Errors
    ///
    /// The errors of [`Tx::publish`].
    pub async fn publish_json(&mut self, name: &str, data: &str) -> Result<Published, Error> {
        let draft = Draft::untyped(name, data.to_owned(), self.db.as_source())?;
        self.publish_draft(draft).await
    }

    async fn publish_draft(&mut self, draft: Draft) -> Result<Published, Error> {
        self.published = true;
        if draft.dedup.is_none() {
            // The ledger is not needed before the commit.
            let id = draft.envelope.id;
            self.drafts.push(draft);
            return Ok(Published {
                id,
                duplicate: false,
            });
        }
        let mut published = super::publish(&mut self.conn, self.db.source(), &[draft]).await?;
        published
            .pop()
            .ok_or_else(|| Error::internal("the ledger returned nothing"))
    }

    /// Makes everything of this transaction real.
    ///
    /// If others wait to write already, they share one commit: an error of the disk is
    /// then an error for all of them.
    ///
    /// # Errors
    ///
    /// `is_unavailable()` if the database could not commit, or the transaction was
    /// ended because it ran no statement for too long: nothing of it is real.
    pub async fn commit(self) -> Result<(), Error> {
        if !self.published {
            return self.conn.commit(None).await;
        }
        fault::point!("publish.before_commit");
        let db = self.db.clone();
        self.commit_drafts().await?;
        fault::point!("publish.after_commit");
        db.announce();
        fault::point!("publish.told");
        Ok(())
    }

    async fn commit_drafts(self) -> Result<(), Error> {
        let Self { conn, drafts, .. } = self;
        if drafts.is_empty() {
            return conn.commit(None).await;
        }
        match conn.engine() {
            EngineKind::Sqlite => conn.commit(Some(Box::new(drafts) as Work)).await,
            #[cfg(feature = "postgres")]
            EngineKind::Postgres => {
                let mut conn = conn;
                let then = self.db.publisher().record(&mut conn, drafts).await?;
                conn.commit(None).await?;
                if let Some(then) = then {
                    then();
                }
                Ok(())
            }
        }
    }

    /// [`Tx::commit`] for code of this crate that published through the ledger.
    pub(crate) async fn commit_and_wake(mut self) -> Result<(), Error> {
        self.published = true;
        self.commit().await
    }

    /// Undoes everything of this transaction.
    ///
    /// # Errors
    ///
    /// Only if the runtime stopped meanwhile.
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

// `&mut *tx` is the connection for a `Tx`, and the `Tx` itself for a `&mut Tx` or
// for a `LedgerTx`: statements run on both.
impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Sql;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<SqlQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        (&mut **self).execute(query)
    }

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<SqlQueryResult, SqlRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        (&mut **self).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqlRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        (&mut **self).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqlTypeInfo],
    ) -> BoxFuture<'e, Result<SqlStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (&mut **self).prepare_with(sql, parameters)
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Sql>, sqlx::Error>>
    where
        'c: 'e,
    {
        (&mut **self).describe(sql)
    }
}
