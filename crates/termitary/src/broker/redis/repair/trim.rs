//! Removes entries that every subscription has finished, and no others: trimming by length would
//! delete entries that a slow one still needs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use crate::broker::redis::Redis;
use crate::broker::redis::wire::keys::StreamSet;
use crate::broker::redis::wire::{reply, script};
use crate::error::Error;
use crate::fault;
use crate::lock::Mutex;

/// Finished entries stay so long for those who watch the stream of events.
const GRACE_MS: &str = "2000";
/// A group without a subscription in our ledger may be newer than our last read of the ledger; if
/// it is still there after this time, it belongs to another program.
const NEW: Duration = Duration::from_mins(1);

/// Groups of our streams that our ledger does not know, and since when; `None` once that was
/// logged. Entries that they have not read stay.
#[derive(Default)]
pub(crate) struct UnknownGroups(Mutex<HashMap<UnknownGroup, Option<Instant>>>);

/// A group, by its stream.
type UnknownGroup = (Arc<str>, String);

impl UnknownGroups {
    /// Remembers the unknown groups of this stream; logs each once if it stays.
    fn see(&self, stream: &Arc<str>, groups: Vec<String>) {
        let mut seen = self.0.lock();
        seen.retain(|(on, group), _| on != stream || groups.contains(group));
        for group in groups {
            let since = seen
                .entry((Arc::clone(stream), group.clone()))
                .or_insert_with(|| Some(Instant::now()));
            if since.is_some_and(|since| since.elapsed() > NEW) {
                *since = None;
                tracing::warn!(%stream, %group, "a group that no subscription here owns keeps its entries on this stream: where nobody reads with it any more, remove it with XGROUP DESTROY");
            }
        }
    }
}

/// Streams with an id in the future, which the log has named.
#[derive(Default)]
pub(crate) struct IdsAhead(Mutex<HashSet<Arc<str>>>);

impl IdsAhead {
    fn see(&self, stream: &Arc<str>, ahead: bool) {
        let mut logged = self.0.lock();
        if !ahead {
            logged.remove(stream);
        } else if logged.insert(Arc::clone(stream)) {
            tracing::warn!(%stream, "an entry of this stream has an id in the future: all later ids follow it, and none of them is trimmed until then; programs that write to it should let Redis assign the ids (XADD with `*`)");
        }
    }
}

pub(crate) async fn trim_streams(redis: &Redis, sets: &[StreamSet]) -> Result<(), Error> {
    let mut groups: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for set in sets {
        for stream in set.mains() {
            groups
                .entry(stream.key.clone())
                .or_default()
                .push(set.group.clone());
        }
    }
    let calls: Vec<_> = groups
        .iter()
        .map(|(stream, groups)| {
            let mut args = vec![GRACE_MS];
            args.extend(groups.iter().map(|group| &**group));
            script::Call {
                script: &script::TRIM,
                keys: vec![stream],
                args,
            }
        })
        .collect();
    fault::point!("trim.before");
    let replies = redis.link.shared().scripts(&calls).await?;
    for (stream, reply) in groups.keys().zip(replies) {
        let mut parts = reply::list(reply?).into_iter();
        redis
            .unknown_groups
            .see(stream, parts.next().map(names).unwrap_or_default());
        let ahead = parts.next().and_then(|ahead| reply::int(&ahead)) == Some(1);
        redis.ids_ahead.see(stream, ahead);
    }
    fault::point!("trim.after");
    Ok(())
}

fn names(reply: Value) -> Vec<String> {
    let names = reply::list(reply).into_iter();
    names.filter_map(reply::text).collect()
}
