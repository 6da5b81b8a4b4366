//! Encoding and decoding of stream entries, for [`crate::hot`].

use redis::Value;

use super::entry;
use crate::broker::redis::wire::keys::Stream;
use crate::broker::redis::wire::reply;
use crate::event::Envelope;

/// The bytes of the `XADD` that carries an event.
pub fn encode(envelope: &Envelope) -> Vec<u8> {
    entry::add("termitary:{bench}:events", envelope, None, None).get_packed_command()
}

/// The reply of Redis when these events are read.
pub fn reply(envelopes: &[Envelope]) -> Value {
    let entries = envelopes.iter().map(|envelope| {
        let words = entry::add("s", envelope, None, None);
        // XADD, the stream and `*` stand before the fields.
        let fields = words.args_iter().skip(3).filter_map(|word| match word {
            redis::Arg::Simple(bytes) => Some(Value::BulkString(bytes.to_vec())),
            _ => None,
        });
        Value::Array(vec![
            Value::BulkString(b"1764064073123-0".to_vec()),
            Value::Array(fields.collect()),
        ])
    });
    Value::Array(entries.collect())
}

/// Parses a reply into events; returns how many could be read.
pub fn decode(found: Value) -> usize {
    let stream = Stream {
        key: "termitary:{bench}:events".into(),
        event: "bench".into(),
    };
    reply::entries(found)
        .iter()
        .filter(|raw| entry::decode(&stream, raw).is_ok())
        .count()
}
