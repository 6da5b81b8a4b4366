//! Reads events that travel on streams only, for those who watch. Those of the
//! ledger are read from the ledger.

use std::collections::{BTreeMap, HashMap};

use crate::broker::redis::wire::commands;
use crate::broker::redis::wire::keys::StreamSet;
use crate::broker::redis::wire::pipeline::Pipeline;
use crate::broker::redis::wire::reply;
use crate::broker::redis::{Redis, entry};
use crate::delivery::{Cursor, Route};
use crate::error::Error;
use crate::event::Envelope;

const PAGE: usize = 500;

/// The first call only remembers where every stream ends.
pub(crate) async fn read(
    redis: &Redis,
    cursor: &mut Cursor,
    routes: &[Route],
) -> Result<Vec<Envelope>, Error> {
    let sets: Vec<_> = routes
        .iter()
        .map(|route| redis.link.keys().stream_set(route))
        .collect();
    let mains: BTreeMap<_, _> = sets
        .iter()
        .flat_map(StreamSet::mains)
        .map(|stream| (stream.key.clone(), stream))
        .collect();
    if mains.is_empty() {
        return Ok(Vec::new());
    }
    if cursor.streams.is_empty() {
        cursor.streams = ends(redis, mains.keys().map(|key| &**key)).await?;
        return Ok(Vec::new());
    }
    let after = cursor.streams.iter();
    let reads = after.map(|(stream, id)| commands::read_after(stream, id, PAGE));
    let mut found = HashMap::new();
    for reply in redis.link.shared().many(&mut reads.collect()).await? {
        found.extend(reply::streams(reply?));
    }
    let mut events = Vec::new();
    for (key, stream) in mains {
        let Some(entries) = found.remove(&*key) else {
            continue;
        };
        if let Some(last) = entries.last() {
            cursor.streams.insert(key.to_string(), last.id.clone());
        }
        let read = entries
            .iter()
            .filter_map(|raw| entry::decode(stream, raw).ok());
        events.extend(
            read.filter(|carried| carried.ledger.is_none())
                .map(|carried| carried.envelope),
        );
    }
    events.sort_by_key(|event| event.time);
    Ok(events)
}

async fn ends(
    redis: &Redis,
    streams: impl Iterator<Item = &str> + Clone,
) -> Result<BTreeMap<String, String>, Error> {
    let mut pipe: Pipeline = streams.clone().map(commands::last_entry).collect();
    let replies = redis.link.shared().many(&mut pipe).await?;
    let end = |reply: redis::RedisResult<redis::Value>| -> Result<String, Error> {
        let last = reply::entries(reply?).pop();
        Ok(last.map_or_else(|| "0-0".to_owned(), |last| last.id))
    };
    streams
        .zip(replies)
        .map(|(stream, reply)| Ok((stream.to_owned(), end(reply)?)))
        .collect()
}
