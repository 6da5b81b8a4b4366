//! From entries to deliveries: what the ledger has settled already, or has
//! handed over again since, is ended here without running.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::reader::Batch;
use super::settle::{self, Over};
use crate::broker::redis::Redis;
use crate::broker::redis::entry::{self, Carried, Unreadable};
use crate::broker::redis::repair::loss::{self, Doubted};
use crate::broker::redis::wire::keys::Lane;
use crate::db::Tx;
use crate::delivery::{Claim, EntryAddress, Leased, Origin, Outcome, Settlement, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::ledger::entries::{self, Standing};
use crate::ledger::{self, state};

/// Entries of one read, sorted by what they are.
#[derive(Default)]
struct Sorted {
    readable: Vec<(EntryAddress, Carried, bool)>,
    unreadable: Vec<(EntryAddress, Box<Unreadable>)>,
    /// To be ended without running.
    over: Vec<Over>,
}

/// The deliveries among these entries that may run now.
pub(crate) async fn admit(
    redis: &Redis,
    lane: &Lane,
    worker: &WorkerId,
    batches: Vec<Batch>,
) -> Result<Vec<Leased>, Error> {
    let mut sorted = sort(lane, batches);
    // What this worker runs is in hand, however often it is given out.
    redis
        .live
        .without_held(worker, &mut sorted.readable, |(entry, ..)| entry);
    let known = Known::read(redis, lane, &sorted.readable).await?;
    let mut leased = Vec::with_capacity(sorted.readable.len());
    let mut doubted = Vec::new();
    for (entry, carried, seen) in sorted.readable {
        match known.fate(&entry, &carried, seen) {
            Fate::Runs(attempts) => leased.push(lease(lane, worker, entry, carried, attempts)),
            Fate::Over => sorted.over.push(Over::quietly(entry)),
            Fate::Noted => sorted.over.push(Over {
                entry,
                counts: true,
            }),
            Fate::Doubted(seq, fence, attempts) => doubted.push(Doubted {
                entry,
                carried,
                seq,
                fence,
                attempts,
            }),
        }
    }
    if !doubted.is_empty() {
        let fences = loss::refence(redis, lane, worker, &doubted).await?;
        for mut one in doubted {
            let Some(fence) = fences.get(&one.seq) else {
                sorted.over.push(Over::quietly(one.entry));
                continue;
            };
            one.carried.ledger = Some((one.seq, *fence));
            leased.push(lease(lane, worker, one.entry, one.carried, one.attempts));
        }
    }
    if !sorted.unreadable.is_empty() {
        park(redis, lane, worker, &sorted.unreadable).await?;
        sorted.over.extend(
            sorted
                .unreadable
                .into_iter()
                .map(|(entry, _)| Over::quietly(entry)),
        );
    }
    if !sorted.over.is_empty() {
        metrics::counter!("termitary_stale_entries_total").increment(sorted.over.len() as u64);
        // What the ledger said may not be on the disk yet.
        redis.db.on_disk().await?;
        settle::end(redis, worker, &sorted.over).await?;
    }
    if !leased.is_empty() {
        fault::point!("lease.admitted");
    }
    // No await from here on: what is marked as held reaches the caller.
    redis
        .live
        .take(worker, &mut leased, |delivery| delivery.claim.entry());
    Ok(leased)
}

fn sort(lane: &Lane, batches: Vec<Batch>) -> Sorted {
    let mut sorted = Sorted::default();
    for batch in batches {
        for raw in batch.entries {
            let entry = lane.address(&batch.stream, &raw.id);
            if raw.fields.is_none() {
                // Deleted under us; the reconciler sends again what is owed.
                sorted.over.push(Over::quietly(entry));
                continue;
            }
            match entry::decode(&batch.stream, &raw) {
                Ok(carried) => sorted.readable.push((entry, carried, batch.seen)),
                Err(unreadable) => sorted.unreadable.push((entry, unreadable)),
            }
        }
    }
    sorted
}

fn lease(
    lane: &Lane,
    worker: &WorkerId,
    entry: EntryAddress,
    carried: Carried,
    attempts: u32,
) -> Leased {
    let envelope = Arc::new(carried.envelope);
    let (fence, origin) = match carried.ledger {
        Some((seq, fence)) => (
            fence,
            Origin::Ledger {
                seq,
                entry: Some(entry),
            },
        ),
        None => (
            1,
            Origin::Stream {
                envelope: Arc::clone(&envelope),
                entry,
            },
        ),
    };
    let claim = Claim {
        event: envelope.id,
        route: lane.route,
        worker: worker.clone(),
        fence,
        origin,
    };
    Leased {
        envelope,
        attempts,
        claim,
    }
}

/// What the ledger knows of the entries of one read.
#[derive(Default)]
struct Known {
    standing: HashMap<i64, Standing>,
    adopted: HashMap<Uuid, Option<String>>,
}

impl Known {
    /// One look for the whole read. Entries that live on the stream only are
    /// looked up where they were given out before.
    async fn read(
        redis: &Redis,
        lane: &Lane,
        entries: &[(EntryAddress, Carried, bool)],
    ) -> Result<Self, Error> {
        let seqs: Vec<_> = entries
            .iter()
            .filter_map(|(_, carried, _)| Some(carried.ledger?.0))
            .collect();
        let seen: Vec<_> = entries
            .iter()
            .filter(|(_, carried, seen)| *seen && carried.ledger.is_none())
            .map(|(_, carried, _)| carried.envelope.id)
            .collect();
        let mut known = Self::default();
        if seqs.is_empty() && seen.is_empty() {
            return Ok(known);
        }
        let mut conn = redis.db.read().await?;
        if !seqs.is_empty() {
            let soon_us = redis.renewed_until_us();
            known.standing = entries::standing(&mut conn, lane.route, &seqs, soon_us).await?;
            let orphans = seqs
                .iter()
                .filter(|seq| !known.standing.contains_key(seq))
                .count();
            if orphans > 0 {
                metrics::counter!("termitary_orphan_entries_total").increment(orphans as u64);
                tracing::warn!(subscription = %lane.group, entries = orphans, "dropped entries of events that this ledger does not have");
            }
        }
        if !seen.is_empty() {
            known.adopted = entries::adopted(&mut conn, lane.route, &seen).await?;
        }
        Ok(known)
    }

    fn fate(&self, entry: &EntryAddress, carried: &Carried, seen: bool) -> Fate {
        let Some((seq, fence)) = carried.ledger else {
            let adopted = self.adopted.get(&carried.envelope.id).filter(|_| seen);
            return match adopted {
                None => Fate::Runs(0),
                Some(uncounted) if *uncounted == Some(entry.recorded()) => Fate::Noted,
                Some(_) => Fate::Over,
            };
        };
        let row = self.standing.get(&seq);
        let Some(row) =
            row.filter(|row| row.id == carried.envelope.id && row.state == Some(state::LEASED))
        else {
            return Fate::Over;
        };
        let now = row.fence.unwrap_or(0);
        // Owed again by the reconciler, a row that cannot be read is parked.
        let Ok(attempts) = u32::try_from(row.attempts.unwrap_or(0)) else {
            return Fate::Over;
        };
        // Under a later fence it was given out again, and is the row's all the same.
        if now != fence && row.entry.as_deref() != Some(&*entry.recorded()) {
            return Fate::Over;
        }
        let given_before = now != fence || loss::ms(&entry.id) <= row.doubt_ms.unwrap_or(0);
        if given_before || row.soon_owed == Some(1) {
            // It may run somewhere, or would be sent again before this run renews it.
            return Fate::Doubted(seq, now, attempts);
        }
        Fate::Runs(attempts)
    }
}

/// What becomes of an entry that can be read.
enum Fate {
    /// It may run, after so many errors.
    Runs(u32),
    /// It may run under the fence after this one: its row, fence and errors.
    Doubted(i64, i64, u32),
    /// The ledger has settled it, or has handed it over again since.
    Over,
    /// It is finished, and counts when this entry ends.
    Noted,
}

async fn park(
    redis: &Redis,
    lane: &Lane,
    worker: &WorkerId,
    unreadable: &[(EntryAddress, Box<Unreadable>)],
) -> Result<(), Error> {
    let mut tx = redis.db.begin().await?;
    let now_us = redis.now_us();
    for (entry, unreadable) in unreadable {
        park_in(&mut tx, lane, worker, entry, unreadable, now_us).await?;
    }
    tx.commit().await
}

/// Keeps what nobody can read, for this subscription alone.
pub(crate) async fn park_in(
    tx: &mut Tx,
    lane: &Lane,
    worker: &WorkerId,
    entry: &EntryAddress,
    unreadable: &Unreadable,
    now_us: i64,
) -> Result<(), Error> {
    let envelope = Arc::new(unreadable.envelope.clone());
    let claim = Claim {
        event: envelope.id,
        route: lane.route,
        worker: worker.clone(),
        fence: 1,
        origin: Origin::Stream {
            envelope: Arc::clone(&envelope),
            entry: entry.clone(),
        },
    };
    if let Some(claim) = ledger::adopt(tx, &claim, &envelope, now_us).await? {
        let outcome = Outcome::Parked {
            reason: "undecodable",
            error: unreadable.error.clone(),
        };
        ledger::settle(tx, &[Settlement { claim, outcome }], now_us).await?;
    }
    metrics::counter!("termitary_unreadable_entries_total").increment(1);
    tracing::warn!(subscription = %lane.group, entry = %entry.id, error = %unreadable.error, "parked an entry that cannot be read");
    Ok(())
}
