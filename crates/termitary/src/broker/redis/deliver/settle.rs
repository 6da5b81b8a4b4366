//! Ends attempts: first in the ledger, which is the truth, then on the stream. A delivery
//! that the ledger settled stays settled if Redis fails in between: its entry is found
//! finished when it is read again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use redis::{RedisResult, Value};

use crate::broker::redis::Redis;
use crate::broker::redis::wire::{keys, reply, script};
use crate::delivery::{Claim, EntryAddress, Origin, Outcome, Settlement, WorkerId};
use crate::error::Error;
use crate::fault;
use crate::ledger;
use crate::ledger::single_writer::alone;

/// Returns, in order, whether each claim was still valid.
pub(crate) async fn settle(redis: &Redis, settlements: &[Settlement]) -> Result<Vec<bool>, Error> {
    let mut held = in_ledger(redis, settlements).await?;
    fault::point!("settle.in_ledger");
    #[cfg(feature = "failpoints")]
    if settlements.iter().any(is_adopted) {
        fault::point!("settle.adopted");
    }
    let acked = on_streams(redis, settlements).await;
    for (i, settlement) in settlements.iter().enumerate() {
        if let (true, Some(acked)) = (on_stream_only(settlement), acked[i]) {
            held[i] = acked;
        }
    }
    // Without a reply from Redis, the ledger records the delivery as finished, so that its
    // entry does not run again.
    let unknown = |i: usize| on_stream_only(&settlements[i]) && acked[i].is_none();
    let unknown: Vec<_> = (0..settlements.len()).filter(|i| unknown(*i)).collect();
    if !unknown.is_empty() {
        let claims: Vec<_> = unknown.iter().map(|&i| &settlements[i].claim).collect();
        let recorded = record_done(redis, &claims).await?;
        for (i, first) in unknown.into_iter().zip(recorded) {
            held[i] = first;
        }
    }
    redis.leased.release(
        settlements
            .iter()
            .filter_map(|s| Some((&s.claim.worker, s.claim.entry()?))),
    );
    Ok(held)
}

/// Finished, and on the stream only.
fn on_stream_only(settlement: &Settlement) -> bool {
    matches!(settlement.claim.origin, Origin::Stream { .. })
        && settlement.outcome == (Outcome::Done { committed: false })
}

fn by_ledger(settlement: &Settlement) -> bool {
    !on_stream_only(settlement) && settlement.outcome != (Outcome::Done { committed: true })
}

/// On the stream only so far, and not finished: the ledger adopts it.
#[cfg(feature = "failpoints")]
fn is_adopted(settlement: &Settlement) -> bool {
    matches!(settlement.claim.origin, Origin::Stream { .. })
        && !matches!(settlement.outcome, Outcome::Done { .. })
}

/// Records deliveries as finished for which Redis did not reply. Returns `false` for those
/// that the ledger had already.
async fn record_done(redis: &Redis, claims: &[&Claim]) -> Result<Vec<bool>, Error> {
    let mut noted = Vec::with_capacity(claims.len());
    let now_us = redis.now_us();
    let mut tx = alone(&redis.db).await?;
    for claim in claims {
        let first = match &claim.origin {
            Origin::Stream { envelope, entry } => {
                ledger::adopt_done(&mut tx, claim, envelope, &entry.recorded(), now_us).await?
            }
            Origin::Ledger { .. } => false,
        };
        noted.push(first);
    }
    tx.commit().await?;
    Ok(noted)
}

/// Settles in one transaction everything that the ledger has to settle.
async fn in_ledger(redis: &Redis, settlements: &[Settlement]) -> Result<Vec<bool>, Error> {
    let committed = Outcome::Done { committed: true };
    let mut held: Vec<_> = settlements.iter().map(|s| s.outcome == committed).collect();
    let places: Vec<_> = (0..settlements.len())
        .filter(|&i| by_ledger(&settlements[i]))
        .collect();
    if places.is_empty() {
        return Ok(held);
    }
    let rows: Vec<_> = places.iter().map(|&i| settlements[i].clone()).collect();
    let again = rows.iter().any(is_due_again);
    let adopts = |s: &Settlement| matches!(s.claim.origin, Origin::Stream { .. });
    let now_us = redis.now_us();
    let settled = if rows.iter().any(adopts) {
        adopted(redis, rows, now_us).await?
    } else {
        ledger::verbs::settle(&redis.db, rows, now_us).await?
    };
    if again {
        redis.db.announce();
    }
    for (i, one) in places.into_iter().zip(settled) {
        held[i] = one;
    }
    Ok(held)
}

/// The ledger owes it again, and the relay has work.
fn is_due_again(settlement: &Settlement) -> bool {
    matches!(
        settlement.outcome,
        Outcome::Retry { .. } | Outcome::Snooze { .. }
    )
}

/// Settles deliveries of which some are on the stream only. Those are adopted first; if the
/// ledger has one already, its claim is lost.
async fn adopted(
    redis: &Redis,
    settlements: Vec<Settlement>,
    now_us: i64,
) -> Result<Vec<bool>, Error> {
    let mut held = vec![false; settlements.len()];
    let mut tx = alone(&redis.db).await?;
    let (mut places, mut rows) = (Vec::new(), Vec::new());
    for (i, Settlement { claim, outcome }) in settlements.into_iter().enumerate() {
        let claim = match &claim.origin {
            Origin::Ledger { .. } => Some(claim),
            Origin::Stream { envelope, .. } => {
                ledger::adopt(&mut tx, &claim, envelope, redis.trusted_until_us()).await?
            }
        };
        if let Some(claim) = claim {
            places.push(i);
            rows.push(Settlement { claim, outcome });
        }
    }
    let settled = ledger::settle(&mut tx, &rows, now_us).await?;
    tx.commit().await?;
    for (i, one) in places.into_iter().zip(settled) {
        held[i] = one;
    }
    Ok(held)
}

/// Ends every entry. Returns whether it was still its worker's, `None` without a reply: the
/// entry is then found finished when it is read again or taken over.
async fn on_streams(redis: &Redis, settlements: &[Settlement]) -> Vec<Option<bool>> {
    let ends: Vec<_> = settlements
        .iter()
        .map(|s| {
            s.claim.entry().map(|entry| End {
                worker: &s.claim.worker,
                entry,
                counts: on_stream_only(s),
            })
        })
        .collect();
    let given: Vec<_> = ends.iter().flatten().copied().collect();
    let mut replies = match end_all(redis, &given).await {
        Ok(replies) => replies,
        Err(error) => vec![Err(error.to_string()); given.len()],
    };
    match replies.iter().find_map(|reply| reply.as_ref().err()) {
        Some(why) => drop(redis.unacked.failed(&Error::unavailable(why.clone()))),
        None if replies.is_empty() => {}
        None => redis.unacked.over(),
    }
    let mut replies = replies.drain(..);
    ends.iter()
        .map(|end| end.as_ref().and_then(|_| replies.next()?.ok()))
        .collect()
}

/// An entry that ends without running.
pub(crate) struct EndedEntry {
    address: EntryAddress,
    /// Its delivery is finished and not counted yet.
    counts: bool,
}

impl EndedEntry {
    pub(crate) fn quiet(address: EntryAddress) -> Self {
        Self {
            address,
            counts: false,
        }
    }

    pub(crate) fn counted(address: EntryAddress) -> Self {
        Self {
            address,
            counts: true,
        }
    }
}

/// Ends entries that this worker holds.
pub(crate) async fn end(
    redis: &Redis,
    worker: &WorkerId,
    ended: &[EndedEntry],
) -> Result<(), Error> {
    let ends: Vec<_> = ended
        .iter()
        .map(|one| End {
            worker,
            entry: &one.address,
            counts: one.counts,
        })
        .collect();
    let ended = end_all(redis, &ends).await?;
    match ended.into_iter().find_map(Result::err) {
        Some(why) => Err(Error::unavailable("Redis refused").caused_by(why)),
        None => Ok(()),
    }
}

#[derive(Clone, Copy)]
struct End<'a> {
    worker: &'a WorkerId,
    entry: &'a EntryAddress,
    counts: bool,
}

/// The entries of one script: a stream, a group, a worker, and whether they count.
type Kind<'a> = (&'a Arc<str>, &'a Arc<str>, &'a WorkerId, bool);

/// True if an entry still belonged to its worker, or the reason why that is unknown.
type EndedOrUnknown = Result<bool, String>;

/// One script per stream, group, worker and kind, all in one round trip.
async fn end_all(redis: &Redis, ends: &[End<'_>]) -> Result<Vec<EndedOrUnknown>, Error> {
    let mut kinds: BTreeMap<Kind<'_>, Vec<usize>> = BTreeMap::new();
    for (
        i,
        End {
            worker,
            entry,
            counts,
        },
    ) in ends.iter().enumerate()
    {
        kinds
            .entry((&entry.stream, &entry.group, worker, *counts))
            .or_default()
            .push(i);
    }
    let mut counters = HashMap::new();
    for (stream, group, ..) in kinds.keys() {
        counters
            .entry((*stream, *group))
            .or_insert_with(|| keys::done(stream, group));
    }
    let mut calls = Vec::with_capacity(kinds.len());
    for ((stream, group, worker, counts), places) in &mut kinds {
        // The script asks for the range from the first to the last.
        places.sort_by_cached_key(|&i| reply::id(&ends[i].entry.id));
        let mut args: Vec<&str> = vec![group, worker];
        args.push(if keys::is_redelivery(stream) {
            "delete"
        } else {
            "keep"
        });
        args.push(if *counts { "count" } else { "quiet" });
        args.extend(places.iter().map(|&i| &*ends[i].entry.id));
        calls.push(script::Call {
            script: &script::ACK,
            keys: vec![stream, &counters[&(*stream, *group)]],
            args,
        });
    }
    let replies = redis.link.shared().scripts(&calls).await?;
    let mut ended = vec![Ok(false); ends.len()];
    for (((.., counts), places), reply) in kinds.iter().zip(replies) {
        match acked(reply, places.len(), *counts) {
            Ok(flags) => {
                for (&i, one) in places.iter().zip(flags) {
                    ended[i] = Ok(one == 1);
                }
            }
            Err(error) => {
                for &i in places {
                    ended[i] = Err(format!("{error:?}"));
                }
            }
        }
    }
    Ok(ended)
}

/// The results of [`script::ACK`] for `entries` entries. If the script only counted the
/// entries that were held, all of them count as held.
fn acked(reply: RedisResult<Value>, entries: usize, counts: bool) -> Result<Vec<i64>, Error> {
    let held = match reply {
        Ok(Value::Int(held)) => usize::try_from(held).unwrap_or(0),
        each => return flags(each),
    };
    if counts && held > 0 && held < entries {
        let late = entries - held;
        metrics::counter!("termitary_settlements_lost_total").increment(late as u64);
        tracing::warn!(
            entries,
            late,
            "some settled too late: somebody else had ended them"
        );
    }
    Ok(vec![i64::from(held > 0); entries])
}

/// A script's reply for each item.
pub(crate) fn flags(reply: RedisResult<Value>) -> Result<Vec<i64>, Error> {
    Ok(reply::list(reply?)
        .iter()
        .map(|flag| reply::int(flag).unwrap_or(0))
        .collect())
}
