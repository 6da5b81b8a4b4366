//! Publishing outside a transaction: straight to the stream, or to the ledger
//! where the event has to wait or to be unique.

use futures_util::{StreamExt, stream};

use crate::broker::redis::bridge::outgoing;
use crate::broker::redis::relay::due;
use crate::broker::redis::repair::unsubscribed;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::{Redis, entry};
use crate::draft::{Draft, Published};
use crate::error::Error;
use crate::fault;
use crate::ledger;

/// Number of pipelines of one call in flight: one is prepared while others are executed.
const IN_FLIGHT: usize = 4;

/// Returns the results in order. An error means that the outcome of every draft of the
/// call is unknown; those that did arrive are published.
pub(crate) async fn publish(redis: &Redis, drafts: Vec<Draft>) -> Result<Vec<Published>, Error> {
    let now_us = redis.now_us();
    let waits = |draft: &Draft| draft.dedup.is_some() || draft.due_us > now_us;
    let mut published: Vec<_> = drafts.iter().map(added).collect();
    let places: Vec<_> = (0..drafts.len()).filter(|&i| waits(&drafts[i])).collect();
    if places.is_empty() {
        add(redis, &drafts).await?;
        return Ok(published);
    }
    let (ledger, stream): (Vec<_>, Vec<_>) = drafts.into_iter().partition(waits);
    for (i, kept) in places.into_iter().zip(keep(redis, &ledger).await?) {
        published[i] = kept;
    }
    add(redis, &stream).await?;
    Ok(published)
}

fn added(draft: &Draft) -> Published {
    Published {
        id: draft.envelope.id,
        duplicate: false,
    }
}

async fn keep(redis: &Redis, drafts: &[Draft]) -> Result<Vec<Published>, Error> {
    let mut tx = redis.db.begin_own().await?;
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
            let stream = redis.link.keys().main(&draft.envelope.name);
            let sent = redis.sharing.send(command(&stream, draft)).await;
            sent.map_err(unknown)?;
        }
        many => {
            let chunks = many.chunks(due::CHUNK);
            let chunks: Vec<_> = chunks.map(|chunk| send(redis, chunk)).collect();
            let mut sent = stream::iter(chunks).buffered(IN_FLIGHT);
            while let Some(sent) = sent.next().await {
                sent?;
            }
        }
    }
    fault::point!("bus.after_xadd");
    metrics::counter!("termitary_events_published_total").increment(drafts.len() as u64);
    unsubscribed::clear(redis, drafts.iter().map(|draft| &*draft.envelope.name)).await;
    if redis.config.bridge_mode().sends_out() {
        outgoing::send_out(redis, drafts.iter().map(|draft| &draft.envelope)).await;
    }
    Ok(())
}

async fn send(redis: &Redis, drafts: &[Draft]) -> Result<(), Error> {
    let mut pipe = Pipeline::with_capacity(drafts.len());
    // Mostly they are of one name.
    for same in drafts.chunk_by(|one, next| one.envelope.name == next.envelope.name) {
        let stream = redis.link.keys().main(&same[0].envelope.name);
        for draft in same {
            pipe.add(command(&stream, draft));
        }
    }
    let replies = redis.link.shared().many(&mut pipe).await.map_err(unknown)?;
    for reply in replies {
        reply.map_err(|error| unknown(error.into()))?;
    }
    Ok(())
}

fn command(stream: &str, draft: &Draft) -> redis::Cmd {
    entry::add(stream, &draft.envelope, None, None)
}

fn unknown(error: Error) -> Error {
    Error::unavailable("Redis did not confirm the event: whether it is published is unknown")
        .caused_by(error)
}
