//! The standing of stream entries in the ledger: the one place that decides whether an
//! entry still carries its delivery. Callers act on the result.

use std::sync::Arc;

use super::Redis;
use super::entry::Carried;
use super::wire::keys::StreamSet;
use super::wire::reply;
use crate::db::Conn;
use crate::delivery::{Claim, EntryAddress, Origin, WorkerId};
use crate::error::Error;
use crate::event::Envelope;
use crate::ledger::entries::{self, Known};
use crate::ledger::{Row, state};

/// An entry that was read from a stream, and the event in it.
pub(crate) struct ReadEntry {
    pub(crate) address: EntryAddress,
    pub(crate) carried: Carried,
    /// It was given out before, so the ledger may have adopted its delivery.
    pub(crate) seen: bool,
}

/// The standing of one entry.
pub(crate) enum Standing {
    /// The entry carries a leased delivery.
    Leased {
        /// With the fence of the ledger, which may be above the entry's.
        row: Row,
        /// The number of handler errors so far; out of range in a damaged row.
        attempts: i64,
        /// The delivery may run somewhere already, or would be sent again before a run
        /// that begins now is renewed: it needs a higher fence.
        doubted: bool,
    },
    /// The delivery is on the stream only.
    StreamOnly,
    /// The delivery is finished, and counts when this entry ends.
    Uncounted,
    /// The delivery was settled, or handed over again with another entry.
    Over,
    /// The ledger does not have the event.
    Orphan,
}

/// The standing of entries that `set` read just now. Reads the database at most once,
/// and not at all for entries that are on the stream only and were never given out.
pub(crate) async fn read(
    redis: &Redis,
    set: &StreamSet,
    entries: &[ReadEntry],
) -> Result<Vec<Standing>, Error> {
    let in_ledger = |entry: &ReadEntry| entry.seen || entry.carried.ledger.is_some();
    if !entries.iter().any(in_ledger) {
        return Ok(entries.iter().map(|_| Standing::StreamOnly).collect());
    }
    let mut conn = redis.db.read().await?;
    standing(&mut conn, set.route, entries, redis.renewed_until_us()).await
}

/// The standing of each entry in the ledger that `conn` sees. A delivery is doubted if the
/// ledger does not know its entry and owes it again before `soon_us`.
pub(crate) async fn standing(
    conn: &mut Conn,
    route: i64,
    entries: &[ReadEntry],
    soon_us: i64,
) -> Result<Vec<Standing>, Error> {
    let (mut seqs, mut seen) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.carried.ledger {
            Some((seq, _)) => seqs.push(seq),
            None if entry.seen => seen.push(entry.carried.envelope.id),
            None => {}
        }
    }
    let known = entries::known(conn, route, &seqs, &seen, soon_us).await?;
    Ok(entries
        .iter()
        .map(|entry| of(entry, route, &known))
        .collect())
}

fn of(entry: &ReadEntry, route: i64, known: &Known) -> Standing {
    let id = entry.carried.envelope.id;
    let Some((seq, fence)) = entry.carried.ledger else {
        return match known.adopted.get(&id) {
            None => Standing::StreamOnly,
            Some(uncounted) if *uncounted == Some(entry.address.recorded()) => Standing::Uncounted,
            Some(_) => Standing::Over,
        };
    };
    let Some(row) = known.rows.get(&seq) else {
        return Standing::Orphan;
    };
    // An entry of another ledger may name the same `seq`.
    if row.id != id || row.state != Some(state::LEASED) {
        return Standing::Over;
    }
    let now = row.fence.unwrap_or(0);
    // With a later fence and the same entry, the delivery was given out again.
    if now != fence && row.entry.as_deref() != Some(&*entry.address.recorded()) {
        return Standing::Over;
    }
    let given_before =
        now != fence || reply::entry_ms(&entry.address.id) <= row.doubt_ms.unwrap_or(0);
    Standing::Leased {
        row: (seq, route, now),
        attempts: row.attempts.unwrap_or(0),
        doubted: given_before || row.soon_owed == Some(1),
    }
}

/// The claim on a delivery that is on its stream only.
pub(crate) fn stream_claim(
    route: i64,
    worker: &WorkerId,
    envelope: &Arc<Envelope>,
    entry: EntryAddress,
) -> Claim {
    Claim {
        event: envelope.id,
        route,
        worker: worker.clone(),
        fence: 1,
        origin: Origin::Stream {
            envelope: Arc::clone(envelope),
            entry,
        },
    }
}
