//! Replies of stream commands, read from either protocol version.

use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

/// An entry as Redis returns it; without fields if it was deleted.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) id: String,
    pub(crate) fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Raw {
    pub(crate) fn field(&self, name: &[u8]) -> Option<&[u8]> {
        let (_, value) = self
            .fields
            .as_ref()?
            .iter()
            .find(|(field, _)| field == name)?;
        Some(value)
    }

    /// When it was added.
    pub(crate) fn time_us(&self) -> i64 {
        id(&self.id).map_or(0, |(ms, _)| {
            i64::try_from(ms).unwrap_or(0).saturating_mul(1000)
        })
    }
}

/// `XREAD`, `XREADGROUP`: the entries of each stream that has some.
pub(crate) fn streams(reply: Value) -> Vec<(String, Vec<Raw>)> {
    pairs(reply)
        .into_iter()
        .filter_map(|(key, found)| Some((text(key)?, entries(found))))
        .collect()
}

/// `XRANGE`, `XREVRANGE`, and the middle of `XAUTOCLAIM`.
pub(crate) fn entries(reply: Value) -> Vec<Raw> {
    list(reply).into_iter().filter_map(entry).collect()
}

fn entry(value: Value) -> Option<Raw> {
    let mut parts = list(value).into_iter();
    let id = text(parts.next()?)?;
    let fields = match parts.next()? {
        Value::Nil => None,
        fields => Some(named(fields)),
    };
    Some(Raw { id, fields })
}

/// The fields of an entry: names and values in turn. One pass: this is the
/// hottest part of reading.
fn named(fields: Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut items = match fields {
        Value::Map(pairs) => {
            let named = pairs.into_iter();
            return named
                .filter_map(|(n, v)| Some((bytes(n)?, bytes(v)?)))
                .collect();
        }
        other => list(other).into_iter(),
    };
    let mut named = Vec::with_capacity(items.len() / 2);
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        named.extend(bytes(name).zip(bytes(value)));
    }
    named
}

/// The items of a list; of anything else, none.
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => Vec::new(),
    }
}

/// A map, or a list that stands for one: of pairs, or of keys and values in turn.
pub(crate) fn pairs(value: Value) -> Vec<(Value, Value)> {
    let items = match value {
        Value::Map(pairs) => return pairs,
        other => list(other),
    };
    if items
        .iter()
        .all(|item| matches!(item, Value::Array(pair) if pair.len() == 2))
    {
        return items
            .into_iter()
            .filter_map(|pair| pair_of(list(pair)))
            .collect();
    }
    let mut items = items.into_iter();
    let mut pairs = Vec::with_capacity(items.len() / 2);
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    pairs
}

fn pair_of(items: Vec<Value>) -> Option<(Value, Value)> {
    let mut items = items.into_iter();
    Some((items.next()?, items.next()?))
}

pub(crate) fn text(value: Value) -> Option<String> {
    match value {
        Value::SimpleString(text) => Some(text),
        Value::Int(n) => Some(n.to_string()),
        other => String::from_utf8(bytes(other)?).ok(),
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

pub(crate) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(*n),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// The milliseconds of an entry id: when the entry was added, by the server's clock.
pub(crate) fn entry_ms(text: &str) -> i64 {
    id(text).map_or(0, |(ms, _)| i64::try_from(ms).unwrap_or(i64::MAX))
}

/// An entry id, comparable.
pub(crate) fn id(text: &str) -> Option<(u64, u64)> {
    let (ms, seq) = text.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

/// A consumer group, as `XINFO GROUPS` describes it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) pending: u64,
    pub(crate) last_delivered: String,
    /// Number of entries that it has not been given yet, if Redis knows it.
    pub(crate) lag: Option<u64>,
}

/// `XINFO GROUPS`.
pub(crate) fn groups(reply: Value) -> Vec<Group> {
    list(reply)
        .into_iter()
        .map(|item| {
            let mut group = Group::default();
            for (field, value) in pairs(item) {
                match text(field).as_deref() {
                    Some("name") => group.name = text(value).unwrap_or_default(),
                    Some("pending") => group.pending = int(&value).unwrap_or(0) as u64,
                    Some("last-delivered-id") => {
                        group.last_delivered = text(value).unwrap_or_default();
                    }
                    Some("lag") => group.lag = int(&value).map(|n| n as u64),
                    _ => {}
                }
            }
            group
        })
        .collect()
}

/// A pending entry, as `XPENDING` lists it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: String,
    pub(crate) consumer: String,
    pub(crate) idle: Duration,
}

/// `XPENDING` with a range.
pub(crate) fn pending(reply: Value) -> Vec<Pending> {
    let one = |item| {
        let mut parts = list(item).into_iter();
        Some(Pending {
            id: text(parts.next()?)?,
            consumer: text(parts.next()?)?,
            idle: Duration::from_millis(int(&parts.next()?)?.max(0) as u64),
        })
    };
    list(reply).into_iter().filter_map(one).collect()
}

/// Returns none if the stream or the group does not exist. Any other error leaves that unknown.
pub(crate) fn unless_absent(reply: RedisResult<Value>) -> RedisResult<Option<Value>> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP")
        || error
            .detail()
            .is_some_and(|detail| detail.contains("no such key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn both_protocol_versions_read_the_same() {
        let entry = || Value::Array(vec![bulk("1-1"), Value::Array(vec![bulk("d"), bulk("{}")])]);
        let two = Value::Array(vec![Value::Array(vec![
            bulk("s"),
            Value::Array(vec![entry()]),
        ])]);
        let three = Value::Map(vec![(bulk("s"), Value::Array(vec![entry()]))]);
        assert_eq!(
            format!("{:?}", streams(two)),
            format!("{:?}", streams(three))
        );
    }

    #[test]
    fn a_deleted_entry_has_no_fields() {
        let found = entries(Value::Array(vec![Value::Array(vec![
            bulk("1-1"),
            Value::Nil,
        ])]));
        assert!(found[0].fields.is_none());
    }

    #[test]
    fn ids_compare_as_numbers() {
        assert!(id("9-1") < id("10-0") && id("10-9") < id("10-10"));
    }
}
