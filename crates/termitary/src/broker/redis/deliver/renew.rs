//! Renewing leases: the idle time on the stream is set back, and the ledger's
//! own trust in the delivery extended, in the worker's name.

use std::collections::{BTreeMap, HashSet};

use super::settle::flags;
use crate::broker::redis::Redis;
use crate::broker::redis::wire::script;
use crate::clock::micros;
use crate::delivery::{Claim, Origin};
use crate::error::Error;
use crate::fault;
use crate::ledger::{Row, handover};

const RENEWED: i64 = 1;
const TAKEN: i64 = 0;
/// The whole group is gone: Redis lost it, not we the lease.
const GONE: i64 = -1;

/// Per claim, whether it is still its worker's. Called on the renewal thread.
pub(crate) async fn renew(redis: &Redis, claims: &[Claim]) -> Result<Vec<bool>, Error> {
    let on_stream = match on_streams(redis, claims).await {
        // Another worker's runtime may have ended with the connection: once more.
        Err(error) if error.is_unavailable() => on_streams(redis, claims).await?,
        other => other?,
    };
    fault::point!("renew.on_stream");
    let in_ledger = in_ledger(redis, claims).await?;
    let held = claims
        .iter()
        .zip(&on_stream)
        .map(|(claim, on_stream)| match &claim.origin {
            // The ledger decides; where its entry is gone with Redis, too.
            Origin::Ledger { seq, .. } => in_ledger.contains(&(*seq, claim.route, claim.fence)),
            Origin::Stream { .. } => matches!(*on_stream, RENEWED | GONE),
        });
    let held: Vec<_> = held.collect();
    let lost = claims.iter().zip(&held).filter(|(_, held)| !**held);
    redis
        .leased
        .release(lost.filter_map(|(claim, _)| Some((&claim.worker, claim.entry()?))));
    Ok(held)
}

async fn on_streams(redis: &Redis, claims: &[Claim]) -> Result<Vec<i64>, Error> {
    let mut kinds: BTreeMap<_, Vec<(usize, &str)>> = BTreeMap::new();
    for (i, claim) in claims.iter().enumerate() {
        if let Some(entry) = claim.entry() {
            kinds
                .entry((&entry.stream, &entry.group, &claim.worker))
                .or_default()
                .push((i, &entry.id));
        }
    }
    let calls: Vec<_> = kinds
        .iter()
        .map(|((stream, group, worker), entries)| {
            let mut args: Vec<&str> = vec![group, worker];
            args.extend(entries.iter().map(|(_, id)| *id));
            script::Call {
                script: &script::RENEW,
                keys: vec![stream],
                args,
            }
        })
        .collect();
    let replies = redis.renewals.scripts(&calls).await?;
    let mut renewed = vec![TAKEN; claims.len()];
    for (entries, reply) in kinds.values().zip(replies) {
        for ((i, _), one) in entries.iter().zip(flags(reply)?) {
            renewed[*i] = one;
        }
    }
    Ok(renewed)
}

async fn in_ledger(redis: &Redis, claims: &[Claim]) -> Result<HashSet<Row>, Error> {
    let trusted_us = redis.trusted_until_us();
    let lease_us = redis
        .now_us()
        .saturating_add(micros(redis.config.lease_time()));
    let rows: Vec<_> = claims
        .iter()
        .filter_map(|claim| match &claim.origin {
            Origin::Ledger { seq, entry } => {
                // Without an entry it was leased from the ledger itself.
                let until_us = if entry.is_some() {
                    trusted_us
                } else {
                    lease_us
                };
                Some((*seq, claim.route, claim.fence, &*claim.worker, until_us))
            }
            Origin::Stream { .. } => None,
        })
        .collect();
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let mut conn = redis.db.renewer().await?;
    Ok(handover::renew(&mut conn, &rows)
        .await?
        .into_iter()
        .collect())
}
