//! Recording events and the deliveries that are owed for them.

use std::collections::HashMap;
use std::sync::LazyLock;

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{Binder, Sized, list};
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::ledger::publish::count;
use crate::ledger::rows::{Bytes, known_or_stand_in};

static EVENTS: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(|rows| {
        format!(
            "INSERT INTO termitary_events (id, name, version, source, time_us, key, traceparent, cause, dedup, data, fanned)
             VALUES {} ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING",
            list("(?,?,?,?,?,?,?,?,?,?,?)", rows)
        )
    })
});

static DELIVERIES: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(|rows| {
        format!(
            "INSERT INTO termitary_deliveries (event, subscription, state, due_us) VALUES {}",
            list("(?,?,0,?)", rows)
        )
    })
});

pub(super) const ROUTES: &str = "SELECT subscription FROM termitary_routes WHERE event = ?1";
pub(super) const FIRST: &str =
    "SELECT seq, id FROM termitary_events WHERE source = ?1 AND dedup = ?2";

/// `fanned` of an event that no subscription gets.
const UNROUTED: i64 = -1;

/// The subscriptions that each name reaches.
type Routes<'a> = HashMap<&'a str, Vec<i64>>;

/// One delivery to be: event, subscription, when it is due.
type Owed = (i64, i64, i64);

/// Records the drafts and one pending delivery for each subscription that their names
/// reach. Returns the receipts in order.
pub(crate) fn publish(conn: &Connection, drafts: &[Draft]) -> Result<Vec<Published>, Error> {
    let routes = routes(conn, drafts)?;
    let mut answers = Vec::with_capacity(drafts.len());
    let mut owed = Vec::with_capacity(drafts.len());
    let mut rest = drafts;
    while let Some(first) = rest.first() {
        let plain = rest.iter().position(|draft| draft.dedup.is_some());
        let plain = plain.unwrap_or(rest.len());
        // A statement tells whether an event is a duplicate only if it inserts no other.
        let (rows, recorded) = insert(conn, &rest[..plain.max(1)], &routes, &mut owed)?;
        let (now, later) = rest.split_at(rows);
        if recorded {
            answers.extend(now.iter().map(recorded_now));
        } else {
            answers.push(recorded_before(conn, first)?);
        }
        rest = later;
    }
    owe(conn, &owed)?;
    count(answers.iter().filter(|answer| !answer.duplicate).count());
    Ok(answers)
}

fn routes<'a>(conn: &Connection, drafts: &'a [Draft]) -> Result<Routes<'a>, Error> {
    let mut routes = Routes::new();
    for draft in drafts {
        let name = &*draft.envelope.name;
        if !routes.contains_key(name) {
            let mut of_name = conn.prepare_cached(ROUTES)?;
            let found = of_name.query_map([name], |row| row.get(0))?;
            routes.insert(name, found.collect::<Result<_, _>>()?);
        }
    }
    Ok(routes)
}

/// Inserts as many of them as one statement takes, and adds their deliveries to `owed`;
/// returns how many, and whether they are no duplicates.
fn insert(
    conn: &Connection,
    drafts: &[Draft],
    routes: &Routes<'_>,
    owed: &mut Vec<Owed>,
) -> Result<(usize, bool), Error> {
    let (mut statement, rows) = EVENTS.at_most(conn, drafts.len())?;
    let mut binder = Binder::new(&mut statement);
    for draft in &drafts[..rows] {
        bind(&mut binder, draft, routes)?;
    }
    if statement.raw_execute()? != rows {
        return Ok((rows, false));
    }
    // AUTOINCREMENT: one statement's rows follow each other.
    let after = conn.last_insert_rowid() + 1;
    for (seq, draft) in (after - rows as i64..after).zip(drafts) {
        let subscriptions = routes.get(&*draft.envelope.name).into_iter().flatten();
        owed.extend(subscriptions.map(|subscription| (seq, *subscription, draft.due_us)));
    }
    Ok((rows, true))
}

fn bind(binder: &mut Binder<'_, '_>, draft: &Draft, routes: &Routes<'_>) -> Result<(), Error> {
    let envelope = &draft.envelope;
    let reaches = |name: &str| routes.get(name).is_some_and(|found| !found.is_empty());
    binder.next(envelope.id.as_bytes())?;
    binder.next(&envelope.name)?;
    binder.next(envelope.version)?;
    binder.next(&envelope.source)?;
    binder.next(envelope.time.as_microsecond())?;
    binder.next(&envelope.key)?;
    binder.next(&envelope.traceparent)?;
    binder.next(envelope.cause.as_ref().map(Uuid::as_bytes))?;
    binder.next(&draft.dedup)?;
    binder.next(envelope.data.get())?;
    binder.next(if reaches(&envelope.name) { 0 } else { UNROUTED })
}

fn owe(conn: &Connection, mut owed: &[Owed]) -> Result<(), Error> {
    while !owed.is_empty() {
        let (mut statement, rows) = DELIVERIES.at_most(conn, owed.len())?;
        let (now, later) = owed.split_at(rows);
        let mut binder = Binder::new(&mut statement);
        for (event, subscription, due_us) in now {
            binder.next(event)?;
            binder.next(subscription)?;
            binder.next(due_us)?;
        }
        statement.raw_execute()?;
        owed = later;
    }
    Ok(())
}

fn recorded_now(draft: &Draft) -> Published {
    Published {
        id: draft.envelope.id,
        duplicate: false,
    }
}

/// The event that had its id first.
fn recorded_before(conn: &Connection, draft: &Draft) -> Result<Published, Error> {
    let mut first = conn.prepare_cached(FIRST)?;
    let id = first.query_row(params![draft.envelope.source, draft.dedup], |row| {
        let id = Bytes(row.get(1)?);
        Ok(known_or_stand_in(Some(&id), row.get(0)?))
    })?;
    Ok(Published {
        id,
        duplicate: true,
    })
}
