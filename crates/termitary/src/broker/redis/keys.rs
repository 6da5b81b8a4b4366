//! Key names. All keys of one event name share a hash tag, so that a script
//! never crosses a slot.

use std::sync::Arc;

use crate::broker::Route;

/// Held by the process that listens to plain pub/sub.
pub(super) const BRIDGE: &str = "termitary:bridge";

/// The stream of an event: one entry per event, one group per subscription.
pub(super) fn main(event: &str) -> String {
    format!("termitary:{{{event}}}:events")
}

/// What one subscription gets a second time.
fn again(event: &str, subscription: &str) -> String {
    format!("termitary:{{{event}}}:again:{subscription}")
}

/// How many stream-only events of the stream's name a group has finished.
pub(super) fn done(stream: &str, group: &str) -> String {
    format!(
        "{}:done:{group}",
        stream.strip_suffix(":events").unwrap_or(stream)
    )
}

/// Counts what we published on a plain channel and have not heard yet.
pub(super) fn echo(channel: &str, data: &str) -> String {
    format!(
        "termitary:echo:{:032x}",
        fingerprint(&[channel.as_bytes(), data.as_bytes()])
    )
}

/// Whether a stream carries entries for one subscription only: its entries are
/// deleted when they end.
pub(super) fn is_targeted(stream: &str) -> bool {
    stream.contains("}:again:")
}

/// FNV-1a: the same in every process and every version.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u128 {
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
pub(super) struct Lane {
    pub(super) route: i64,
    pub(super) group: Arc<str>,
    /// The main streams of its event and the aliases, then its own.
    pub(super) streams: Vec<Stream>,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) key: Arc<str>,
    /// The event that it carries, where its entries do not say.
    pub(super) event: Arc<str>,
}

impl Lane {
    pub(super) fn of(route: &Route) -> Self {
        let mut streams: Vec<_> = route
            .events
            .iter()
            .map(|event| Stream {
                key: main(event).into(),
                event: event.as_str().into(),
            })
            .collect();
        if let Some(event) = route.events.first() {
            streams.push(Stream {
                key: again(event, &route.name).into(),
                event: event.as_str().into(),
            });
        }
        Self {
            route: route.id,
            group: route.name.as_str().into(),
            streams,
        }
    }

    pub(super) fn mains(&self) -> &[Stream] {
        &self.streams[..self.streams.len().saturating_sub(1)]
    }

    /// Where redeliveries go.
    pub(super) fn again(&self) -> Option<&Stream> {
        self.streams.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_event_share_a_slot_and_are_told_apart() {
        let route = Route {
            id: 1,
            name: "mail.send".into(),
            events: vec!["a.b".into(), "a.old".into()],
            known: true,
        };
        let lane = Lane::of(&route);
        let keys: Vec<_> = lane.streams.iter().map(|stream| &*stream.key).collect();
        assert_eq!(
            keys,
            [
                "termitary:{a.b}:events",
                "termitary:{a.old}:events",
                "termitary:{a.b}:again:mail.send"
            ]
        );
        assert_eq!(
            keys.iter().map(|key| is_targeted(key)).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert_eq!(done(keys[0], "mail.send"), "termitary:{a.b}:done:mail.send");
    }
}
