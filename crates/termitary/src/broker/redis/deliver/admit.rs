//! From entries to deliveries. Entries whose delivery the ledger has settled, or has handed
//! over again, end here without running.

use std::sync::Arc;

use super::reader::Batch;
use super::settle::{self, EndedEntry};
use crate::broker::redis::Redis;
use crate::broker::redis::entry::{self, Unreadable};
use crate::broker::redis::repair::loss;
use crate::broker::redis::standing::{self, ReadEntry, Standing, stream_claim};
use crate::broker::redis::wire::keys::StreamSet;
use crate::db::Tx;
use crate::delivery::{Claim, EntryAddress, Leased, Origin, Outcome, Settlement, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::ledger::single_writer::alone;
use crate::ledger::{self, Row};

/// Entries of one read.
#[derive(Default)]
struct Sorted {
    readable: Vec<ReadEntry>,
    unreadable: Vec<(EntryAddress, Box<Unreadable>)>,
    /// To be ended without running.
    ended: Vec<EndedEntry>,
}

/// Returns the deliveries among these entries that may run now.
pub(crate) async fn admit(
    redis: &Redis,
    set: &StreamSet,
    worker: &WorkerId,
    batches: Vec<Batch>,
) -> Result<Vec<Leased>, Error> {
    let Sorted {
        mut readable,
        unreadable,
        mut ended,
    } = sort(set, batches);
    // This worker holds these already, however often Redis gives them out.
    redis
        .leased
        .without_held(worker, &mut readable, |entry| &entry.address);
    let standings = standing::read(redis, set, &readable).await?;
    warn_of_orphans(set, &standings);
    let mut leased = Vec::with_capacity(readable.len());
    let mut doubted = Vec::new();
    for (entry, standing) in readable.into_iter().zip(standings) {
        let (row, attempts, is_doubted) = match standing {
            Standing::StreamOnly => (None, 0, false),
            Standing::Leased {
                row,
                attempts,
                doubted,
            } => (Some(row), attempts, doubted),
            Standing::Uncounted => {
                ended.push(EndedEntry::counted(entry.address));
                continue;
            }
            Standing::Over | Standing::Orphan => {
                ended.push(EndedEntry::quiet(entry.address));
                continue;
            }
        };
        match (u32::try_from(attempts), row) {
            (Ok(attempts), Some(row)) if is_doubted => doubted.push((entry, row, attempts)),
            (Ok(attempts), row) => leased.push(lease(set, worker, entry, row, attempts)),
            // The reconciler owes a damaged row again, and the relay parks it.
            (Err(_), _) => ended.push(EndedEntry::quiet(entry.address)),
        }
    }
    if !doubted.is_empty() {
        let again = doubted.iter().map(|(entry, row, _)| (*row, &entry.address));
        let fences = loss::refence(redis, worker, again).await?;
        for (entry, (seq, route, _), attempts) in doubted {
            match fences.get(&seq) {
                Some(fence) => {
                    let row = Some((seq, route, *fence));
                    leased.push(lease(set, worker, entry, row, attempts));
                }
                None => ended.push(EndedEntry::quiet(entry.address)),
            }
        }
    }
    if !unreadable.is_empty() {
        park(redis, set, worker, &unreadable).await?;
        let addresses = unreadable.into_iter().map(|(address, _)| address);
        ended.extend(addresses.map(EndedEntry::quiet));
    }
    if !ended.is_empty() {
        metrics::counter!("termitary_stale_entries_total").increment(ended.len() as u64);
        // The ledger's word may not be on the disk yet.
        redis.db.on_disk().await?;
        settle::end(redis, worker, &ended).await?;
    }
    if !leased.is_empty() {
        fault::point!("lease.admitted");
    }
    // No await from here on: every entry marked as held reaches the caller.
    redis
        .leased
        .take(worker, &mut leased, |delivery| delivery.claim.entry());
    Ok(leased)
}

fn sort(set: &StreamSet, batches: Vec<Batch>) -> Sorted {
    let mut sorted = Sorted::default();
    for batch in batches {
        for raw in batch.entries {
            let address = set.address(&batch.stream, &raw.id);
            if raw.fields.is_none() {
                // Deleted from the stream; the reconciler sends again what is owed.
                sorted.ended.push(EndedEntry::quiet(address));
                continue;
            }
            match entry::decode(&batch.stream, &raw) {
                Ok(carried) => sorted.readable.push(ReadEntry {
                    address,
                    carried,
                    seen: batch.seen,
                }),
                Err(unreadable) => sorted.unreadable.push((address, unreadable)),
            }
        }
    }
    sorted
}

fn warn_of_orphans(set: &StreamSet, standings: &[Standing]) {
    let orphans = standings
        .iter()
        .filter(|standing| matches!(standing, Standing::Orphan))
        .count();
    if orphans > 0 {
        metrics::counter!("termitary_orphan_entries_total").increment(orphans as u64);
        tracing::warn!(subscription = %set.group, entries = orphans, "dropped entries of events that this ledger does not have");
    }
}

fn lease(
    set: &StreamSet,
    worker: &WorkerId,
    entry: ReadEntry,
    row: Option<Row>,
    attempts: u32,
) -> Leased {
    let envelope = Arc::new(entry.carried.envelope);
    let claim = match row {
        Some((seq, route, fence)) => Claim {
            event: envelope.id,
            route,
            worker: worker.clone(),
            fence,
            origin: Origin::Ledger {
                seq,
                entry: Some(entry.address),
            },
        },
        None => stream_claim(set.route, worker, &envelope, entry.address),
    };
    Leased {
        envelope,
        attempts,
        claim,
    }
}

async fn park(
    redis: &Redis,
    set: &StreamSet,
    worker: &WorkerId,
    unreadable: &[(EntryAddress, Box<Unreadable>)],
) -> Result<(), Error> {
    let mut tx = alone(&redis.db).await?;
    let now_us = redis.now_us();
    for (address, unreadable) in unreadable {
        park_in(&mut tx, set, worker, address, unreadable, now_us).await?;
    }
    tx.commit().await
}

/// Parks an unreadable entry for this subscription alone.
pub(crate) async fn park_in(
    tx: &mut Tx,
    set: &StreamSet,
    worker: &WorkerId,
    address: &EntryAddress,
    unreadable: &Unreadable,
    now_us: i64,
) -> Result<(), Error> {
    let envelope = Arc::new(unreadable.envelope.clone());
    let claim = stream_claim(set.route, worker, &envelope, address.clone());
    if let Some(claim) = ledger::adopt(tx, &claim, &envelope, now_us).await? {
        let outcome = Outcome::Parked {
            reason: "undecodable",
            error: unreadable.error.clone(),
        };
        ledger::settle(tx, &[Settlement { claim, outcome }], now_us).await?;
    }
    metrics::counter!("termitary_unreadable_entries_total").increment(1);
    tracing::warn!(subscription = %set.group, entry = %address.id, error = %unreadable.error, "parked an entry that cannot be read");
    Ok(())
}
