//! Text search reads every todo that the caller may see. It has connections of its own, a
//! bounded queue before them, and a deadline that interrupts its statement, so that no
//! search slows down other requests.

use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, QueryBuilder};
use termitary::db::{Dialect, Sql};
use termitary::{Conn, Reader};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::store::list as store;
use crate::app::App;
use crate::casefold::Needle;
use crate::http::ApiError;
use crate::quota::Full;
use crate::sql::{lossy, lossy_or_null};

/// The database checks the deadline after this number of its instructions.
const INSTRUCTIONS: i32 = 1_000;
/// The bytes that are searched before other requests get their turn.
const YIELD_AFTER: usize = 64 * 1024;

/// A search. Its statement returns a title, a description and the JSON of each todo.
pub(super) struct Search {
    pub(super) statement: QueryBuilder<Sql>,
    pub(super) needle: Needle,
    /// The most todos to return.
    pub(super) most: usize,
}

impl Search {
    /// Returns the JSON of the todos that contain the needle, in the order of the
    /// statement.
    pub(super) async fn run(self, app: &App, user: Uuid) -> Result<Vec<String>, ApiError> {
        let deadline = Instant::now() + app.settings().search_patience;
        let place = app.searches().take(user, 1).map_err(too_many)?;
        let found = timeout_at(deadline, async {
            let _turn = place.common.lock().await;
            let reader = app.db().read_long().await?;
            self.find(reader, deadline).await
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) if Instant::now() < deadline => Err(error),
            _ => Err(ApiError::Busy(
                "The search took too long: narrow it with another filter, or try again.",
            )),
        }
    }

    async fn find(
        mut self,
        mut reader: Reader,
        deadline: Instant,
    ) -> Result<Vec<String>, ApiError> {
        if reader.dialect() == Dialect::Postgres {
            // A limit of the transaction, which leaves none on the connection.
            let mut tx = reader.begin().await?;
            store::limit_time(&mut tx, deadline.duration_since(Instant::now())).await?;
            return self.find_on(&mut tx).await;
        }
        interrupt_at(deadline, &mut reader).await?;
        self.find_on(&mut reader).await
    }

    async fn find_on(&mut self, conn: &mut Conn) -> Result<Vec<String>, ApiError> {
        let mut rows = self.statement.build().fetch(conn);
        let (mut found, mut searched) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let title = lossy(&row, 0)?;
            let description = lossy_or_null(&row, 1)?;
            let description = description.as_deref();
            if self.needle.is_in(&title) || description.is_some_and(|text| self.needle.is_in(text))
            {
                found.push(lossy(&row, 2)?.into_owned());
                if found.len() == self.most {
                    break;
                }
            }
            searched += title.len() + description.map_or(0, str::len) + YIELD_AFTER / 100;
            if searched > YIELD_AFTER {
                searched = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(found)
    }
}

/// Makes the database stop the statements of this connection at the deadline, also while
/// it sorts and returns no row. Each search sets its own deadline.
async fn interrupt_at(deadline: Instant, reader: &mut Reader) -> Result<(), ApiError> {
    let mut connection = reader.sqlite()?;
    let mut connection = connection.lock_handle().await?;
    connection.set_progress_handler(INSTRUCTIONS, move || Instant::now() < deadline);
    Ok(())
}

fn too_many(full: Full) -> ApiError {
    ApiError::Busy(match full {
        Full::Total => "Too many searches run at this moment.",
        Full::Key => "Your other searches still run: wait for one of them.",
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_statement_without_end_is_interrupted_and_its_connection_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/search.db", folder.path().display());
        let db = termitary::Db::open(&url).await.unwrap();
        // It counts for ever, and yields nothing on its way.
        let endless = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
                       SELECT hex(i), NULL, '' FROM n WHERE i < 0";
        for _ in 0..3 {
            let search = Search {
                statement: QueryBuilder::new(endless),
                needle: Needle::new("x"),
                most: 1,
            };
            let reader = db.read_long().await.unwrap();
            let deadline = Instant::now() + Duration::from_millis(50);
            assert!(search.find(reader, deadline).await.is_err());
        }
        let search = Search {
            statement: QueryBuilder::new("SELECT 'a title', NULL, 'found'"),
            needle: Needle::new("TITLE"),
            most: 1,
        };
        let reader = db.read_long().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        assert_eq!(search.find(reader, deadline).await.unwrap(), ["found"]);
        db.close().await;
    }
}
