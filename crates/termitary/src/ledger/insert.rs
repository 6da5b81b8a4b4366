//! Inserting events on SQLite: one statement for many.

use std::ops::Range;
use std::sync::OnceLock;

use sqlx::Executor;
use sqlx::query::Query;

use crate::draft::Draft;
use crate::engine::sql::{Sql, SqlArguments, SqlQueryResult};
use crate::error::Error;

/// Rows of the largest statement.
pub(super) const ROWS: usize = 64;

/// `fanned` of an event that the relay has not put on its stream: 0, or -1 where
/// no subscription gets it. Its name is bound once more.
pub(super) const WAITS: &str =
    "iif(EXISTS (SELECT 1 FROM termitary_routes WHERE event = ?), 0, -1)";
/// `fanned` of an event that is on its stream, or on its way there.
pub(super) const FANNED: &str = "1";

/// Owes deliveries for events: one for each subscription that their names reach,
/// `pending`, or `leased` to the relay under the first fence until the time that is
/// bound.
macro_rules! owed {
    (pending, $which:literal) => {
        $crate::ledger::insert::owed!("0, NULL, NULL, 0", $which)
    };
    (leased, $which:literal) => {
        $crate::ledger::insert::owed!("1, 'relay', ?, 1", $which)
    };
    ($state:literal, $which:literal) => {
        concat!(
            "INSERT INTO termitary_deliveries (event, subscription, due_us, state, worker, lease_us, fence)
             SELECT e.seq, r.subscription, e.time_us, ",
            $state,
            " FROM termitary_events e JOIN termitary_routes r ON r.event = e.name WHERE ",
            $which
        )
    };
}
/// The same for the events of the statement just before: their rows follow each
/// other.
macro_rules! owed_now {
    ($state:ident) => {
        $crate::ledger::insert::owed!($state, "e.seq > last_insert_rowid() - changes()")
    };
}
pub(super) use {owed, owed_now};

/// Statements that insert events, one for each number of them: what is padded or joined
/// costs a quarter more, and one statement for each row twice as much. The statements
/// before and after it share its round trip to the database's thread.
pub(super) struct Inserts {
    first: &'static str,
    fanned: &'static str,
    then: &'static str,
    /// Written when first needed.
    sql: [OnceLock<String>; ROWS],
}

type Insert<'a> = Query<'a, Sql, SqlArguments>;

impl Inserts {
    pub(super) const fn new(first: &'static str, fanned: &'static str, then: &'static str) -> Self {
        Self {
            first,
            fanned,
            then,
            sql: [const { OnceLock::new() }; ROWS],
        }
    }

    fn sql(&'static self, rows: usize) -> &'static str {
        self.sql[rows - 1].get_or_init(|| {
            // No numbered parameters: finding the name of one walks the list of all.
            let row = format!("(?,?,?,?,?,?,?,?,?,?,{})", self.fanned);
            format!(
                "{}; INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned)
                 VALUES {} ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING; {}",
                self.first,
                vec![row; rows].join(","),
                self.then
            )
        })
    }

    /// Inserts 1 to [`ROWS`] of them; what comes after may have values bound still.
    pub(super) fn query<'a>(&'static self, drafts: &'a [Draft]) -> Insert<'a> {
        let mut query = sqlx::query(self.sql(drafts.len()));
        let names_again = self.fanned.contains('?');
        for Draft {
            envelope, dedup, ..
        } in drafts
        {
            query = query
                .bind(envelope.id)
                .bind(&envelope.name)
                .bind(i64::from(envelope.version))
                .bind(&envelope.source)
                .bind(envelope.time.as_microsecond())
                .bind(&envelope.key)
                .bind(&envelope.traceparent)
                .bind(envelope.cause)
                .bind(dedup)
                .bind(envelope.data.get());
            if names_again {
                query = query.bind(&envelope.name);
            }
        }
        query
    }

    /// Inserts all of them; returns the `seq` of each, in order, and `None` for a
    /// duplicate.
    pub(super) async fn run<C: Send>(
        &'static self,
        conn: &mut C,
        drafts: &[Draft],
    ) -> Result<Vec<Option<i64>>, Error>
    where
        for<'c> &'c mut C: Executor<'c, Database = Sql>,
    {
        let mut seqs = Vec::with_capacity(drafts.len());
        for chunk in drafts.chunks(ROWS) {
            let done = self.query(chunk).execute(&mut *conn).await?;
            let rows = chunk.len();
            let unique = chunk.iter().all(|draft| draft.dedup.is_none());
            if unique || done.rows_affected() == rows as u64 {
                seqs.extend(seqs_before(&done, rows).map(Some));
            } else {
                seqs.extend(seqs_of(conn, chunk).await?);
            }
        }
        Ok(seqs)
    }
}

/// AUTOINCREMENT: one statement's rows follow each other.
pub(super) fn seqs_before(done: &SqlQueryResult, rows: usize) -> Range<i64> {
    let after = done.last_insert_rowid() + 1;
    after - rows as i64..after
}

/// The rows of those that are no duplicates.
async fn seqs_of<C: Send>(conn: &mut C, drafts: &[Draft]) -> Result<Vec<Option<i64>>, Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Sql>,
{
    let mut seqs = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let seq = sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
            .bind(draft.envelope.id)
            .fetch_optional(&mut *conn)
            .await?;
        seqs.push(seq);
    }
    Ok(seqs)
}
