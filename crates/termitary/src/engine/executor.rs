//! Statements run on a connection of either engine.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt};
use sqlx::{Describe, Execute, Executor, SqlStr};

use super::conn::{Conn, InTurn, Kind, Next};
use super::sql::{self, Sql, SqlQueryResult, SqlRow, SqlStatement, SqlTypeInfo, Step, mapped};

/// The steps of a statement on PostgreSQL, which clear the doubt once all of them came.
#[cfg(feature = "postgres")]
struct Doubted<'e> {
    steps: BoxStream<'e, Step>,
    doubt: &'e mut bool,
    failed: bool,
}

#[cfg(feature = "postgres")]
impl Stream for Doubted<'_> {
    type Item = Step;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        let step = self.steps.poll_next_unpin(cx);
        match &step {
            Poll::Ready(Some(Err(_))) => self.failed = true,
            Poll::Ready(None) => *self.doubt = self.failed,
            _ => {}
        }
        step
    }
}

/// Runs a statement on an engine's own connection.
pub(super) fn many<'e, C, DB>(
    conn: C,
    query: Result<sql::Forward<DB>, sqlx::Error>,
) -> BoxStream<'e, Step>
where
    DB: sqlx::Database,
    C: Executor<'e, Database = DB> + 'e,
    SqlQueryResult: From<DB::QueryResult>,
    SqlRow: From<DB::Row>,
{
    match query {
        Ok(query) => conn.fetch_many(query).map(mapped).boxed(),
        Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
    }
}

pub(super) async fn execute<'e, C, DB>(
    conn: C,
    query: Result<sql::Forward<DB>, sqlx::Error>,
) -> Result<SqlQueryResult, sqlx::Error>
where
    DB: sqlx::Database,
    C: Executor<'e, Database = DB> + 'e,
    SqlQueryResult: From<DB::QueryResult>,
{
    conn.execute(query?).await.map(SqlQueryResult::from)
}

pub(super) async fn optional<'e, C, DB>(
    conn: C,
    query: Result<sql::Forward<DB>, sqlx::Error>,
) -> Result<Option<SqlRow>, sqlx::Error>
where
    DB: sqlx::Database,
    C: Executor<'e, Database = DB> + 'e,
    SqlRow: From<DB::Row>,
{
    Ok(conn.fetch_optional(query?).await?.map(SqlRow::from))
}

// `describe` exists under sqlx's feature `offline`, a part of its `macros`, which
// this crate asks for.
impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Sql;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<SqlQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        match &mut self.0 {
            Kind::Own(conn) => Box::pin(execute(conn, sql::sqlite(query))),
            Kind::Turn(turn) => Box::pin(async move {
                let query = sql::sqlite(query)?;
                let mut conn = turn.cell.borrow()?;
                let mut steps = conn.fetch_many(query);
                let mut done = sqlx::sqlite::SqliteQueryResult::default();
                while let Some(step) = steps.try_next().await? {
                    done.extend(step.left());
                }
                Ok(done.into())
            }),
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => {
                let query = sql::postgres(query);
                let (conn, doubt) = conn.doubted();
                Box::pin(async move {
                    let done = execute(conn, query).await?;
                    *doubt = false;
                    Ok(done)
                })
            }
        }
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        match &mut self.0 {
            Kind::Own(conn) => many(conn, sql::sqlite(query)),
            Kind::Turn(turn) => {
                let turn: &'c InTurn = turn;
                let next = &turn.step;
                let work = async move {
                    let query = sql::sqlite(query)?;
                    let mut conn = turn.cell.borrow()?;
                    let mut steps = conn.fetch_many(query);
                    while let Some(step) = steps.next().await {
                        hand_over(next, mapped(Ok(step?))).await;
                    }
                    Ok(())
                };
                Box::pin(Steps {
                    work: Some(Box::pin(work)),
                    next,
                })
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => {
                let (conn, doubt) = conn.doubted();
                let steps = many(conn, sql::postgres(query));
                Box::pin(Doubted {
                    steps,
                    doubt,
                    failed: false,
                })
            }
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqlRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sql>,
    {
        match &mut self.0 {
            Kind::Own(conn) => Box::pin(optional(conn, sql::sqlite(query))),
            Kind::Turn(turn) => Box::pin(async move {
                let query = sql::sqlite(query)?;
                let row = turn.cell.borrow()?.fetch_optional(query).await?;
                Ok(row.map(SqlRow::from))
            }),
            #[cfg(feature = "postgres")]
            Kind::Postgres(conn) => {
                let query = sql::postgres(query);
                let (conn, doubt) = conn.doubted();
                Box::pin(async move {
                    let row = optional(conn, query).await?;
                    *doubt = false;
                    Ok(row)
                })
            }
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        _parameters: &'e [SqlTypeInfo],
    ) -> BoxFuture<'e, Result<SqlStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            #[cfg(feature = "postgres")]
            if let Kind::Postgres(conn) = &mut self.0 {
                return (&mut **conn).prepare(sql).await.map(SqlStatement::from);
            }
            self.borrow()?.prepare(sql).await.map(SqlStatement::from)
        })
    }

    #[doc(hidden)]
    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, Result<Describe<Sql>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(std::future::ready(Err(not_described())))
    }
}

pub(super) fn not_described() -> sqlx::Error {
    sqlx::Error::Protocol("statements are described by the connection of one engine".to_owned())
}

/// The steps of a statement in a transaction. The statement is a future that holds
/// the connection; it pauses after each step.
struct Steps<'c, W> {
    /// `None` once the statement is over, which frees the connection.
    work: Option<Pin<Box<W>>>,
    next: &'c Next,
}

impl<W> Stream for Steps<'_, W>
where
    W: Future<Output = Result<(), sqlx::Error>>,
{
    type Item = Step;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Step>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(None);
        };
        match work.as_mut().poll(context) {
            Poll::Pending => match self.next.lock().take() {
                Some(step) => Poll::Ready(Some(step)),
                None => Poll::Pending,
            },
            Poll::Ready(ended) => {
                self.work = None;
                Poll::Ready(ended.err().map(Err))
            }
        }
    }
}

impl<W> Drop for Steps<'_, W> {
    fn drop(&mut self) {
        // The next statement must not find it.
        self.work = None;
        self.next.lock().take();
    }
}

/// Leaves `step` for the stream and pauses. The stream, which polled, sees it at
/// once and needs no waker.
async fn hand_over(next: &Next, step: Step) {
    *next.lock() = Some(step);
    let mut paused = false;
    poll_fn(|_| {
        if std::mem::replace(&mut paused, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use futures_util::TryStreamExt;
    use sqlx::Connection as _;

    use crate::db::Conn;
    use crate::db::Db;

    async fn desk() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/conn.db", folder.path().display());
        (Db::open(&url).await.unwrap(), folder)
    }

    const NUMBERS: &str = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT i FROM n";

    async fn sum(conn: &mut Conn) -> i64 {
        let mut rows = sqlx::query_scalar::<_, i64>(NUMBERS).fetch(conn);
        let (mut sum, mut last) = (0, 0);
        while let Some(number) = rows.try_next().await.unwrap() {
            assert_eq!(number, last + 1, "in order");
            (sum, last) = (sum + number, number);
        }
        sum
    }

    #[tokio::test]
    async fn a_transaction_and_a_reader_stream_the_same_rows() {
        let (db, _folder) = desk().await;
        let mut tx = db.begin().await.unwrap();
        assert_eq!(sum(&mut tx).await, 500_500);
        assert_eq!(sum(&mut db.read().await.unwrap()).await, 500_500);
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_between_two_rows_leaves_nothing_to_the_next() {
        let (db, _folder) = desk().await;
        let mut tx = db.begin().await.unwrap();
        for n in 0..20_i64 {
            let mut rows = sqlx::query_scalar::<_, i64>(NUMBERS).fetch(&mut *tx);
            assert_eq!(rows.try_next().await.unwrap(), Some(1));
            drop(rows);
            let next: Vec<i64> = sqlx::query_scalar("SELECT $1")
                .bind(n)
                .fetch_all(&mut *tx)
                .await
                .unwrap();
            assert_eq!(next, [n]);
        }
    }

    #[tokio::test]
    async fn an_error_and_the_number_of_changed_rows_come_through() {
        let (db, _folder) = desk().await;
        let mut tx = db.begin().await.unwrap();
        sqlx::query("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
            .execute(&mut *tx)
            .await
            .unwrap();
        let two = sqlx::query("INSERT INTO notes VALUES (1), (2)");
        assert_eq!(two.execute(&mut *tx).await.unwrap().rows_affected(), 2);
        let insert = "INSERT INTO notes VALUES (1)";
        let twice = sqlx::query(insert).execute(&mut *tx).await.unwrap_err();
        assert!(twice.as_database_error().unwrap().is_unique_violation());
        let twice = sqlx::query(insert).fetch_all(&mut *tx).await.unwrap_err();
        assert!(twice.as_database_error().unwrap().is_unique_violation());
        let mut conn = tx.sqlite().unwrap();
        let mut savepoint = conn.begin().await.unwrap();
        sqlx::query("DELETE FROM notes")
            .execute(&mut *savepoint)
            .await
            .unwrap();
        savepoint.rollback().await.unwrap();
        drop(conn);
        let notes: Option<i64> = sqlx::query_scalar("SELECT COUNT(*) FROM notes")
            .fetch_optional(&mut *tx)
            .await
            .unwrap();
        assert_eq!(notes, Some(2));
    }
}
