//! Publishing outside a transaction: straight to the stream, or to the ledger
//! where the event has to wait or to be unique.

use super::{Redis, entry, relay, unread};
use crate::error::Error;
use crate::fault;
use crate::ledger;
use crate::publish::{Draft, Published};

/// Answers in order. An error means that the outcome of every draft of the
/// call is unknown; those that did arrive are published.
pub(super) async fn publish(redis: &Redis, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
    let now_us = redis.now_us();
    let waits = |draft: &Draft| draft.dedup.is_some() || draft.due_us > now_us;
    let (ledger, stream): (Vec<_>, Vec<_>) = drafts.iter().cloned().partition(waits);
    let mut kept = keep(redis, &ledger).await?.into_iter();
    add(redis, &stream).await?;
    let answer = |draft: &Draft| {
        if waits(draft) {
            return kept
                .next()
                .ok_or_else(|| Error::internal("the ledger answered too little"));
        }
        Ok(Published {
            id: draft.envelope.id,
            duplicate: false,
        })
    };
    drafts.iter().map(answer).collect()
}

async fn keep(redis: &Redis, drafts: &[Draft]) -> Result<Vec<Published>, Error> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = redis.db.begin().await?;
    let published = ledger::publish(&mut tx, redis.db.source(), drafts).await?;
    tx.commit_and_wake().await?;
    Ok(published)
}

async fn add(redis: &Redis, drafts: &[Draft]) -> Result<(), Error> {
    if drafts.is_empty() {
        return Ok(());
    }
    fault::point!("bus.before_xadd");
    match drafts {
        [draft] => {
            redis
                .link
                .shared()
                .one(&command(redis, draft))
                .await
                .map_err(unknown)?;
        }
        many => {
            for chunk in many.chunks(relay::CHUNK) {
                let mut pipe = redis::pipe();
                for draft in chunk {
                    pipe.add_command(command(redis, draft));
                }
                let answers = redis.link.shared().many(&mut pipe).await.map_err(unknown)?;
                for answer in answers {
                    answer.map_err(|error| unknown(error.into()))?;
                }
            }
        }
    }
    fault::point!("bus.after_xadd");
    metrics::counter!("termitary_events_published_total").increment(drafts.len() as u64);
    unread::clear(redis, drafts.iter().map(|draft| &*draft.envelope.name)).await;
    if redis.config.bridge_mode().sends_out() {
        relay::send_out(redis, drafts.iter().map(|draft| &draft.envelope)).await;
    }
    Ok(())
}

fn command(redis: &Redis, draft: &Draft) -> redis::Cmd {
    entry::add(
        &redis.link.keys().main(&draft.envelope.name),
        &draft.envelope,
        None,
        None,
    )
}

fn unknown(error: Error) -> Error {
    Error::unavailable("Redis did not confirm the event: whether it is published is unknown")
        .caused_by(error)
}
