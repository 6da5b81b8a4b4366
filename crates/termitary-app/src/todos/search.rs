//! Searching reads every todo that the caller may see. It has connections of its own, a
//! bounded queue before them, and a deadline that interrupts its statement: however
//! much somebody has to be searched, everything else goes on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt as _;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use termitary::Reader;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::app::App;
use crate::fold::Needle;
use crate::http::ApiError;

/// Searches of one process that run or wait.
const ALL: usize = 16;
/// Of one user: one of them runs.
const OF_ONE: usize = 4;
/// The database asks after so many of its instructions whether time is up.
const INSTRUCTIONS: i32 = 1_000;
/// Bytes that are looked through before other requests get their turn.
const SHARE: usize = 64 * 1024;

/// The searches of one process.
#[derive(Clone, Default)]
pub(crate) struct Searches(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    all: usize,
    users: HashMap<Uuid, Queue>,
}

/// The searches of one user, which run one after the other.
#[derive(Default)]
struct Queue {
    length: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A place among the searches, given back when dropped.
struct Place {
    searches: Searches,
    user: Uuid,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A statement whose rows are a title, a description and what stands for the todo.
pub(super) struct Search {
    pub(super) statement: QueryBuilder<Sqlite>,
    pub(super) needle: Needle,
    /// The most that is wanted.
    pub(super) most: usize,
}

impl Search {
    /// What stands for the todos that have the needle, in the order of the statement.
    pub(super) async fn run(self, app: &App, user: Uuid) -> Result<Vec<String>, ApiError> {
        let deadline = Instant::now() + app.settings().search_patience;
        let place = app.searches().enter(user)?;
        let found = timeout_at(deadline, async {
            let _turn = place.turn.lock().await;
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
        interrupt_at(deadline, &mut reader).await?;
        let mut rows = self.statement.build().fetch(&mut *reader);
        let (mut found, mut looked_through) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let title: &str = row.try_get(0)?;
            let description: Option<&str> = row.try_get(1)?;
            if self.needle.is_in(title) || description.is_some_and(|text| self.needle.is_in(text)) {
                found.push(row.try_get(2)?);
                if found.len() == self.most {
                    break;
                }
            }
            looked_through += title.len() + description.map_or(0, str::len) + SHARE / 100;
            if looked_through > SHARE {
                looked_through = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(found)
    }
}

/// Lets the database give up whatever this connection does after the deadline: sorting,
/// too, which yields no row. Each search sets its own.
async fn interrupt_at(deadline: Instant, reader: &mut Reader) -> Result<(), ApiError> {
    let mut connection = reader.sqlite()?;
    let mut connection = connection.lock_handle().await?;
    connection.set_progress_handler(INSTRUCTIONS, move || Instant::now() < deadline);
    Ok(())
}

impl Searches {
    fn enter(&self, user: Uuid) -> Result<Place, ApiError> {
        let mut state = self.lock();
        if state.all >= ALL {
            return Err(ApiError::Busy("Too many searches run at this moment."));
        }
        let queue = state.users.entry(user).or_default();
        if queue.length >= OF_ONE {
            return Err(ApiError::Busy(
                "Your other searches still run: wait for one of them.",
            ));
        }
        queue.length += 1;
        let turn = Arc::clone(&queue.turn);
        state.all += 1;
        drop(state);
        Ok(Place {
            searches: self.clone(),
            user,
            turn,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.searches.lock();
        state.all -= 1;
        if let Entry::Occupied(mut queue) = state.users.entry(self.user) {
            queue.get_mut().length -= 1;
            if queue.get().length == 0 {
                queue.remove();
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_has_few_places_and_all_together_have_some_more() {
        let searches = Searches::default();
        let user = Uuid::from_u128;
        let mine: Vec<_> = (0..OF_ONE)
            .map(|_| searches.enter(user(0)).unwrap())
            .collect();
        assert!(searches.enter(user(0)).is_err());
        let others: Vec<_> = (OF_ONE..ALL)
            .map(|n| searches.enter(user(n as u128)).unwrap())
            .collect();
        assert!(searches.enter(user(99)).is_err());
        drop(others);
        assert!(searches.enter(user(0)).is_err());
        drop(mine);
        assert!(searches.enter(user(0)).is_ok());
        assert!(searches.lock().users.is_empty(), "nothing is remembered");
    }

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
