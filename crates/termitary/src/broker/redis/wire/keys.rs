//! Key names: the only place that makes them. All keys of one event name share
//! a hash tag, so that a script never crosses a slot.

use std::sync::Arc;

use crate::delivery::{EntryAddress, Route};
use crate::error::Error;

/// The default prefix of all names.
pub(crate) const PREFIX: &str = "termitary";

const MAX_PREFIX_BYTES: usize = 64;

/// Makes the names of everything that one system has on Redis: keys, and the
/// channel of its broadcasts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            prefix: PREFIX.into(),
        }
    }
}

impl Keys {
    /// Refuses characters that would break the hash tag or match as a pattern.
    pub(crate) fn new(prefix: &str) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        let fits = (1..=MAX_PREFIX_BYTES).contains(&prefix.len());
        if fits && prefix.chars().all(allowed) {
            return Ok(Self {
                prefix: prefix.into(),
            });
        }
        Err(Error::invalid(format!(
            "the Redis key prefix `{}` cannot be used: write 1 to {MAX_PREFIX_BYTES} letters, digits, dots, colons, `-` and `_`",
            prefix.escape_debug()
        )))
    }

    /// Held by the process that listens to plain pub/sub.
    pub(crate) fn bridge(&self) -> String {
        format!("{}:bridge", self.prefix)
    }

    /// The key with the id of the ledger whose deliveries are carried here.
    pub(crate) fn owner(&self) -> String {
        format!("{}:ledger", self.prefix)
    }

    /// The channel of broadcasts.
    pub(crate) fn broadcast(&self) -> String {
        format!("{}:broadcast", self.prefix)
    }

    /// The stream of an event: one entry per event, one group per subscription.
    pub(crate) fn main(&self, event: &str) -> String {
        // Once for each event that is published: pieces, not a format.
        [&*self.prefix, ":{", event, "}:events"].concat()
    }

    /// The stream of redeliveries to one subscription.
    fn again(&self, event: &str, subscription: &str) -> String {
        format!("{}:{{{event}}}:again:{subscription}", self.prefix)
    }

    /// The key that counts our messages on a plain channel that have not come back yet.
    pub(crate) fn echo(&self, channel: &str, data: &str) -> String {
        format!(
            "{}:{{echo:{:032x}}}",
            self.prefix,
            fingerprint(&[channel.as_bytes(), data.as_bytes()])
        )
    }

    /// The streams that a subscription reads.
    pub(crate) fn stream_set(&self, route: &Route) -> StreamSet {
        let mut streams: Vec<_> = route
            .events
            .iter()
            .map(|event| Stream {
                key: self.main(event).into(),
                event: event.as_str().into(),
            })
            .collect();
        if let Some(event) = route.events.first() {
            streams.push(Stream {
                key: self.again(event, &route.name).into(),
                event: event.as_str().into(),
            });
        }
        StreamSet {
            route: route.id,
            group: route.name.as_str().into(),
            streams,
        }
    }
}

/// The field that counts the stream-only events of this name that a group has finished.
pub(crate) fn done(stream: &str, group: &str) -> String {
    format!(
        "{}:done:{group}",
        stream.strip_suffix(":events").unwrap_or(stream)
    )
}

/// The key that marks one message as such an echo.
pub(crate) fn echoed(echo: &str, message: u64) -> String {
    format!("{echo}:{message:016x}")
}

/// Returns whether a stream carries entries for one subscription only: its entries are deleted when
/// they end.
pub(crate) fn is_redelivery(stream: &str) -> bool {
    stream.contains("}:again:")
}

/// FNV-1a: the same in every process and every version.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in part.iter().copied().chain([0]) {
            hash =
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}

/// The streams that one subscription reads.
#[derive(Clone, Debug)]
pub(crate) struct StreamSet {
    pub(crate) route: i64,
    pub(crate) group: Arc<str>,
    /// The main streams of its event and the aliases, then its own.
    pub(crate) streams: Vec<Stream>,
}

#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) key: Arc<str>,
    /// The event that it carries, where its entries do not say. Its hash tag.
    pub(crate) event: Arc<str>,
}

impl StreamSet {
    pub(crate) fn mains(&self) -> &[Stream] {
        &self.streams[..self.streams.len().saturating_sub(1)]
    }

    /// The hash tags of its streams: the names of its events.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &Arc<str>> {
        self.mains().iter().map(|stream| &stream.event)
    }

    /// The stream of redeliveries.
    pub(crate) fn again(&self) -> Option<&Stream> {
        self.streams.last()
    }

    /// The address of an entry of one of its streams.
    pub(crate) fn address(&self, stream: &Stream, id: &str) -> EntryAddress {
        EntryAddress {
            stream: stream.key.clone(),
            group: self.group.clone(),
            id: id.into(),
        }
    }
}

/// Every stream of these sets, with its set.
pub(crate) fn streams(sets: &[StreamSet]) -> impl Iterator<Item = (&StreamSet, &Stream)> {
    sets.iter()
        .flat_map(|set| set.streams.iter().map(move |stream| (set, stream)))
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_begins_every_name_and_cannot_hold_a_hash_tag() {
        let Ok(keys) = Keys::new("shop:2") else {
            panic!("a plain prefix is refused")
        };
        assert_eq!(keys.main("a.b"), "shop:2:{a.b}:events");
        assert_eq!(keys.bridge(), "shop:2:bridge");
        assert_eq!(keys.broadcast(), "shop:2:broadcast");
        assert_eq!(keys.owner(), "shop:2:ledger");
        assert!(keys.echo("a", "{}").starts_with("shop:2:{echo:"));
        assert_eq!(
            done(&keys.main("a.b"), "mail.send"),
            "shop:2:{a.b}:done:mail.send"
        );
        let long = "x".repeat(65);
        for bad in ["", "a{b}", "a*", "a b", "a\nb", "ä", &long] {
            assert!(Keys::new(bad).is_err_and(|e| e.is_invalid()), "{bad:?}");
        }
    }

    #[test]
    fn keys_of_one_event_share_a_slot_and_are_told_apart() {
        let route = Route {
            fresh: Vec::new(),
            id: 1,
            name: "mail.send".into(),
            events: vec!["a.b".into(), "a.old".into()],
            known: true,
        };
        let set = Keys::default().stream_set(&route);
        let keys: Vec<_> = set.streams.iter().map(|stream| &*stream.key).collect();
        assert_eq!(
            keys,
            [
                "termitary:{a.b}:events",
                "termitary:{a.old}:events",
                "termitary:{a.b}:again:mail.send"
            ]
        );
        assert_eq!(
            keys.iter()
                .map(|key| is_redelivery(key))
                .collect::<Vec<_>>(),
            [false, false, true]
        );
        assert_eq!(done(keys[0], "mail.send"), "termitary:{a.b}:done:mail.send");
    }
}
