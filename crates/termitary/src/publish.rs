//! Publishing inside a plain sqlx transaction.

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction};

use crate::db::Db;
use crate::draft::{Draft, Published};
use crate::engine::LentSqlite;
use crate::error::Error;
use crate::event::{Event, Outgoing};

/// Publishing inside a plain sqlx transaction on the same database, for code that
/// has a pool of its own and does not use [`Tx`](crate::Tx).
///
/// On SQLite such a transaction takes no turn: it competes with the writers of this process for
/// SQLite's write lock, as another process does. Workers notice its commit by polling,
/// within about 10 ms.
#[async_trait]
pub trait Publish {
    /// Publishes an event that becomes real when the transaction commits.
    ///
    /// # Errors
    ///
    /// `is_invalid()` if the event, its key or its id cannot be stored;
    /// `is_unavailable()` if another writer holds the lock for longer than the
    /// connection's busy timeout.
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
        let mut lent = LentSqlite::new(self);
        first(crate::ledger::publish_on_sqlite(&mut lent, db.source(), &[draft]).await?)
    }
}

/// The same on PostgreSQL. Workers of other processes notice the commit within about
/// 100 ms: nothing announces it.
#[cfg(feature = "postgres")]
#[async_trait]
impl Publish for Transaction<'_, sqlx::Postgres> {
    async fn publish<E: Event>(
        &mut self,
        db: &Db,
        event: impl Into<Outgoing<E>> + Send,
    ) -> Result<Published, Error> {
        let draft = Draft::typed(event.into(), db.as_source())?;
        first(crate::ledger::publish_on_postgres(db, self, &[draft]).await?)
    }
}

fn first(mut published: Vec<Published>) -> Result<Published, Error> {
    published
        .pop()
        .ok_or_else(|| Error::internal("the ledger returned nothing"))
}

#[cfg(all(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
    use sqlx::{Database, Pool, Transaction};

    use super::Publish;
    use crate::lock::Mutex;
    use crate::prelude::{Broker, Event, HandlerResult, Registry, State, subscribe};
    use crate::testing::{TestDb, TestWorker};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Noted {
        n: u32,
    }

    impl Event for Noted {
        const NAME: &'static str = "notes.noted";
    }

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u32>>>);

    async fn see(event: Noted, State(seen): State<Seen>) -> HandlerResult {
        seen.0.lock().push(event.n);
        Ok(())
    }

    /// Publishes in transactions of a pool that commit, roll back or repeat an id.
    async fn publish_in<DB: Database>(test: &TestDb, pool: Pool<DB>)
    where
        for<'c> Transaction<'c, DB>: Publish,
    {
        let (db, seen) = (test.db(), Seen::default());
        let registry = Registry::new().on(subscribe("notes.see", see));
        let worker = TestWorker::start(Broker::sql(db.clone()), registry, seen.clone()).await;

        let mut tx = pool.begin().await.unwrap();
        tx.publish(db, Noted { n: 1 }).await.unwrap();
        tx.rollback().await.unwrap();
        for (n, duplicate) in [(2, false), (3, true)] {
            let mut tx = pool.begin().await.unwrap();
            tx.publish(db, Noted { n: 10 * n }).await.unwrap();
            let once = tx.publish(db, Noted { n }.id("once")).await.unwrap();
            assert_eq!(once.duplicate, duplicate);
            tx.commit().await.unwrap();
        }
        worker.settle().await;
        let mut seen = seen.0.lock().clone();
        seen.sort_unstable();
        assert_eq!(seen, [2, 20, 30]);
        pool.close().await;
    }

    #[tokio::test]
    async fn an_event_of_a_plain_transaction_is_handled_if_that_commits_and_else_never() {
        let test = TestDb::open().await;
        let options = SqliteConnectOptions::new().filename(test.db().place());
        let pool = SqlitePool::connect_with(options).await.unwrap();
        publish_in(&test, pool).await;
    }

    #[cfg(feature = "postgres")]
    mod on_postgres {
        use sqlx::postgres::{PgConnectOptions, PgPool};

        use super::super::*;
        use super::{Noted, publish_in};
        use crate::db::Options;
        use crate::testing::TestDb;

        /// A pool of a program, with this search path.
        async fn pool(test: &TestDb, search_path: &str) -> PgPool {
            let options: PgConnectOptions = test.url().parse().unwrap();
            let options = options.options([("search_path", search_path)]);
            PgPool::connect_with(options).await.unwrap()
        }

        #[tokio::test]
        async fn an_event_of_a_plain_transaction_is_handled_whatever_its_search_path() {
            for search_path in ["\"$user\", public", "termitary", "", "elsewhere"] {
                let test = TestDb::postgres().await;
                publish_in(&test, pool(&test, search_path).await).await;
            }
        }

        #[tokio::test]
        async fn publishing_leaves_the_search_path_as_it_was_and_takes_its_own_ledger() {
            let test = TestDb::postgres().await;
            let options = Options::default().schema("other");
            let other = Db::open_with(&test.url(), options).await.unwrap();
            let pool = pool(&test, "termitary").await;
            let mut tx = pool.begin().await.unwrap();
            tx.publish(&other, Noted { n: 1 }).await.unwrap();
            let path: String = sqlx::query_scalar("SELECT current_setting('search_path')")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            assert_eq!(path, "termitary");
            tx.commit().await.unwrap();
            for (db, events) in [(test.db(), 0), (&other, 1)] {
                let kept = crate::ledger::count_events(db).await.unwrap();
                assert_eq!(kept, events, "{}", db.place());
            }
            pool.close().await;
        }
    }
}
