//! Recording events as the last thing of a transaction: with its commit in the
//! same round trip to the database's thread.

use std::collections::HashMap;

use super::insert::{FANNED, seqs_before};
use super::insert::{Inserts, ROWS, WAITS, owed_now};
use super::publish::{count, publish_on_sqlite as publish};
use super::rows::Text;
use super::{Committed, Trust};
use crate::draft::Draft;
use crate::engine::Conn;
use crate::engine::sqlite::{COMMIT, nothing_lost};
use crate::error::Error;

/// For what takes several statements: the commit looks again.
const LOOK: &str = concat!(nothing_lost!(), "; SAVEPOINT termitary_all");
static LAST: Inserts = Inserts::new(
    nothing_lost!(),
    WAITS,
    concat!(owed_now!(pending), "; COMMIT"),
);

/// [`publish`] of drafts that cannot be duplicates; then commits.
pub(crate) async fn publish_and_commit(
    conn: &mut Conn,
    source: &str,
    drafts: &[Draft],
) -> Result<(), Error> {
    if drafts.len() > ROWS || !drafts.iter().all(Draft::is_due_now) {
        run(conn, LOOK).await?;
        publish(conn, source, drafts).await?;
        return run(conn, COMMIT).await;
    }
    if drafts.is_empty() {
        return run(conn, COMMIT).await;
    }
    LAST.query(drafts).execute(conn).await?;
    count(drafts.len());
    Ok(())
}

async fn run(conn: &mut Conn, statements: &'static str) -> Result<(), Error> {
    sqlx::query(statements).execute(conn).await?;
    Ok(())
}

/// The last value that is bound is the end of the lease.
static LEASED: Inserts = Inserts::new("", FANNED, owed_now!(leased));
static LEASED_LAST: Inserts = Inserts::new(
    nothing_lost!(),
    FANNED,
    concat!(owed_now!(leased), "; COMMIT"),
);

/// Does the same, but leases to the relay the events that can run now and that the
/// committing process may bring to Redis itself; returns those.
pub(crate) async fn lease_and_commit(
    conn: &mut Conn,
    source: &str,
    drafts: Vec<Draft>,
    trust: Trust,
) -> Result<Option<Committed>, Error> {
    let is_trusted =
        |draft: &Draft| draft.is_due_now() && trust.reached.contains_key(&draft.envelope.name);
    let (trusted, left): (Vec<_>, Vec<_>) = drafts.into_iter().partition(is_trusted);
    if trusted.is_empty() {
        publish_and_commit(conn, source, &left).await?;
        return Ok(None);
    }
    if !left.is_empty() || trusted.len() > ROWS {
        run(conn, LOOK).await?;
    }
    if !left.is_empty() {
        publish(conn, source, &left).await?;
    }
    let mut seqs = Vec::with_capacity(trusted.len());
    let mut chunks = trusted.chunks(ROWS).peekable();
    while let Some(chunk) = chunks.next() {
        let last = chunks.peek().is_none();
        let inserts = if last { &LEASED_LAST } else { &LEASED };
        let query = inserts.query(chunk).bind(trust.until_us);
        seqs.extend(seqs_before(&query.execute(&mut *conn).await?, chunk.len()));
    }
    count(trusted.len());
    let envelopes = trusted.into_iter().map(|draft| draft.envelope);
    Ok(Some(Committed {
        events: seqs.into_iter().zip(envelopes).collect(),
        trust,
    }))
}

/// The names of events that somebody subscribes to, and how many do; none where
/// no worker was heard of since.
pub(crate) async fn reached(conn: &mut Conn, since_us: i64) -> Result<HashMap<String, u64>, Error> {
    let names: Vec<(Text, i64)> = sqlx::query_as(
        "SELECT event, COUNT(*) FROM termitary_routes
         WHERE EXISTS (SELECT 1 FROM termitary_workers WHERE seen_us >= $1) GROUP BY event",
    )
    .bind(since_us)
    .fetch_all(conn)
    .await?;
    Ok(names
        .into_iter()
        .map(|(name, n)| (name.0, n as u64))
        .collect())
}
