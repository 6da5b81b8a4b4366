//! The format of a stream entry, in both directions: short fields, readable in redis-cli.
//!
//! `e` holds id, time in µs, version and source, separated by spaces; `d` the data. Optional: `k`
//! key, `p` traceparent, `c` cause, `l` the ledger's row, `f` the fence, and with it `n` name,
//! because an entry that is sent again to one subscription may be of any event that it names. Every
//! field costs the server and both ends, so the parts that each event has share one. A foreign
//! producer may write `d` alone, with `i` id, `t` time, `v` version and `s` source if it has them,
//! or one field `ce` with a structured CloudEvents object.

use std::fmt::Write;

use redis::Cmd;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::broker::redis::wire::keys::{self, Stream};
use crate::broker::redis::wire::reply::Raw;
use crate::clock::from_micros;
pub(crate) use crate::event::as_json_text;
use crate::event::{Envelope, MAX_DATA_BYTES};
use crate::payload;
use crate::planted;

/// The source of entries that no service of ours wrote.
const FOREIGN: &str = "/termitary/foreign";

/// The most words of an `XADD`, and the most bytes of those that are no text.
const WORDS: usize = 19;
const NUMBERS: usize = 200;
/// The same of a head: the id, two numbers and three spaces.
const HEAD_NUMBERS: usize = 36 + 20 + 10 + 3;

/// An event as an entry carries it.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) envelope: Envelope,
    /// Its row in the ledger and the fence of this delivery.
    pub(crate) ledger: Option<(i64, i64)>,
}

/// An entry that nobody can run.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// The readable parts of it.
    pub(crate) envelope: Envelope,
    pub(crate) error: String,
}

/// `XADD` of an event; `seq` where the ledger has it, `fence` for redeliveries.
pub(crate) fn add(stream: &str, event: &Envelope, seq: Option<i64>, fence: Option<i64>) -> Cmd {
    let mut id = Uuid::encode_buffer();
    // Room for all of it: ids, numbers and names have known lengths.
    let texts = [&event.key, &event.traceparent].map(|text| text.as_ref().map_or(0, String::len));
    let size = stream.len()
        + event.name.len()
        + event.source.len()
        + texts[0]
        + texts[1]
        + event.data.get().len();
    let mut cmd = Cmd::with_capacity(WORDS, size + NUMBERS);
    cmd.arg("XADD").arg(stream);
    if planted::is("maxlen-trim") {
        cmd.arg("MAXLEN").arg(1);
    }
    cmd.arg("*").arg("e").arg(head(event));
    if let Some(key) = &event.key {
        cmd.arg("k").arg(key);
    }
    if let Some(traceparent) = &event.traceparent {
        cmd.arg("p").arg(traceparent);
    }
    if let Some(cause) = event.cause {
        cmd.arg("c").arg(&*cause.hyphenated().encode_lower(&mut id));
    }
    if let Some(seq) = seq {
        cmd.arg("l").arg(seq);
    }
    if let Some(fence) = fence {
        cmd.arg("f").arg(fence).arg("n").arg(&event.name);
    }
    cmd.arg("d").arg(event.data.get());
    cmd
}

/// The parts that every event has. The source comes last, because it may contain spaces.
fn head(event: &Envelope) -> String {
    let mut id = Uuid::encode_buffer();
    let id = event.id.hyphenated().encode_lower(&mut id);
    let (time, version) = (event.time.as_microsecond(), event.version);
    let mut head = String::with_capacity(event.source.len() + HEAD_NUMBERS);
    // A string takes everything.
    let _ = write!(head, "{id} {time} {version} {}", event.source);
    head
}

/// The parts of a [`head`].
#[derive(Default)]
struct Head<'a> {
    id: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    /// Of an entry of ours, or as a foreign producer says it.
    fn of(raw: &'a Raw) -> Self {
        let Some(head) = raw.field(b"e") else {
            let [id, time, version, source] =
                [&b"i"[..], b"t", b"v", b"s"].map(|name| raw.field(name));
            return Self {
                id,
                time,
                version,
                source,
            };
        };
        let mut parts = head.splitn(4, |&byte| byte == b' ');
        Self {
            id: parts.next(),
            time: parts.next(),
            version: parts.next(),
            source: parts.next(),
        }
    }
}

/// Returns whether this entry carries that event of the ledger.
pub(crate) fn carries(raw: &Raw, seq: i64, id: Uuid) -> bool {
    raw.field(b"l").and_then(int) == Some(seq) && Head::of(raw).id.and_then(uuid) == Some(id)
}

/// Reads an entry of `stream`.
pub(crate) fn decode(stream: &Stream, raw: &Raw) -> Result<Carried, Box<Unreadable>> {
    let read = match raw.field(b"ce") {
        Some(json) => cloud_event(stream, raw, json),
        None => fields(stream, raw),
    };
    read.map_err(|error| {
        Box::new(Unreadable {
            envelope: keep(stream, raw),
            error,
        })
    })
}

fn fields(stream: &Stream, raw: &Raw) -> Result<Carried, String> {
    let data = raw
        .field(b"d")
        .ok_or("the entry has no field d and no field ce")?;
    let head = Head::of(raw);
    let id = match head.id {
        Some(id) => uuid(id).ok_or("its id is not a UUID")?,
        None => entry_uuid(stream, raw),
    };
    let time_us = match head.time {
        Some(time) => int(time).ok_or("its time is not a number")?,
        None => raw.time_us(),
    };
    let version = match head.version {
        Some(version) => int(version)
            .and_then(|v| u32::try_from(v).ok())
            .ok_or("its version is not one")?,
        None => 1,
    };
    let cause = match raw.field(b"c") {
        Some(cause) => Some(uuid(cause).ok_or("field c is not a UUID")?),
        None => None,
    };
    let ledger = match raw.field(b"l") {
        Some(seq) => {
            let seq = int(seq).ok_or("field l is not a number")?;
            let fence = raw
                .field(b"f")
                .map_or(Some(1), int)
                .ok_or("field f is not a number")?;
            Some((seq, fence))
        }
        None => None,
    };
    let envelope = Envelope {
        id,
        name: name(stream, raw)?,
        version,
        time: from_micros(time_us),
        source: optional(head.source)?.unwrap_or_else(|| FOREIGN.to_owned()),
        key: optional(raw.field(b"k"))?,
        traceparent: optional(raw.field(b"p"))?,
        cause,
        data: json(stream, data)?,
    };
    Ok(Carried { envelope, ledger })
}

/// The event's name: the stream's, but on a stream for one subscription alone as its
/// entry says.
fn name(stream: &Stream, raw: &Raw) -> Result<String, String> {
    let own = raw.field(b"n").filter(|_| keys::is_redelivery(&stream.key));
    Ok(optional(own)?.unwrap_or_else(|| stream.event.to_string()))
}

/// CloudEvents 1.0, structured. `source` and `id` together are unique, so that
/// an id that is no UUID becomes one.
#[derive(Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    time: Option<jiff::Timestamp>,
    dataschema: Option<String>,
    partitionkey: Option<String>,
    traceparent: Option<String>,
    causationid: Option<Uuid>,
    data: Option<Box<RawValue>>,
}

fn cloud_event(stream: &Stream, raw: &Raw, text: &[u8]) -> Result<Carried, String> {
    if text.len() > MAX_DATA_BYTES * 2 {
        return Err(format!("the CloudEvents object has {} bytes", text.len()));
    }
    // serde's message may quote the payload.
    let event: CloudEvent = serde_json::from_slice(text)
        .map_err(|_| "field ce is not a structured CloudEvents object")?;
    if !event.specversion.starts_with("1.") {
        return Err("field ce is of another CloudEvents version than 1".to_owned());
    }
    if event.r#type != *stream.event {
        return Err("field ce has a type of another stream".to_owned());
    }
    let id = Uuid::try_parse(&event.id)
        .unwrap_or_else(|_| named_uuid(&[event.source.as_bytes(), event.id.as_bytes()]));
    let version = event
        .dataschema
        .and_then(|schema| schema.rsplit(':').next()?.parse().ok())
        .unwrap_or(1);
    let data = event
        .data
        .map_or_else(|| "null".to_owned(), |data| data.get().to_owned());
    let envelope = Envelope {
        id,
        name: event.r#type,
        version,
        time: event.time.unwrap_or_else(|| from_micros(raw.time_us())),
        source: event.source,
        key: payload::key(&stream.event, event.partitionkey).map_err(|error| error.to_string())?,
        traceparent: event.traceparent,
        cause: event.causationid,
        data: payload::unread(&stream.event, data).map_err(|error| error.to_string())?,
    };
    Ok(Carried {
        envelope,
        ledger: None,
    })
}

/// The text of an unreadable entry, kept as a JSON string.
fn keep(stream: &Stream, raw: &Raw) -> Envelope {
    let mut text = String::new();
    for (name, value) in raw.fields.iter().flatten() {
        let (name, value) = (
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(value),
        );
        text.extend([&*name, ": ", &*value, "\n"]);
    }
    Envelope {
        id: entry_uuid(stream, raw),
        name: stream.event.to_string(),
        version: 1,
        time: from_micros(raw.time_us()),
        source: FOREIGN.to_owned(),
        key: None,
        traceparent: None,
        cause: None,
        data: as_json_text(&text),
    }
}

/// The id of an entry whose writer gave none: the same for every reader.
fn entry_uuid(stream: &Stream, raw: &Raw) -> Uuid {
    named_uuid(&[stream.key.as_bytes(), raw.id.as_bytes()])
}

fn named_uuid(parts: &[&[u8]]) -> Uuid {
    Uuid::new_v8(keys::fingerprint(parts).to_be_bytes())
}

fn uuid(text: &[u8]) -> Option<Uuid> {
    Uuid::try_parse_ascii(text).ok()
}

fn int(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn optional(text: Option<&[u8]>) -> Result<Option<String>, String> {
    match text.map(std::str::from_utf8) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text.to_owned())),
        Some(Err(_)) => Err("a field is not UTF-8".to_owned()),
    }
}

fn json(stream: &Stream, data: &[u8]) -> Result<Box<RawValue>, String> {
    let text = std::str::from_utf8(data).map_err(|_| "field d is not UTF-8")?;
    payload::unread(&stream.event, text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream {
            key: keys::Keys::default().main("todos.created").into(),
            event: "todos.created".into(),
        }
    }

    fn raw(fields: &[(&str, &str)]) -> Raw {
        let fields = fields
            .iter()
            .map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()))
            .collect();
        Raw {
            id: "1700000000000-3".to_owned(),
            fields: Some(fields),
        }
    }

    fn refused(fields: &[(&str, &str)]) -> Unreadable {
        let Err(unreadable) = decode(&stream(), &raw(fields)) else {
            panic!("{fields:?}")
        };
        *unreadable
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let event = Envelope {
            id: Uuid::now_v7(),
            name: "todos.created".to_owned(),
            version: 3,
            time: from_micros(1_700_000_000_123_456),
            source: "/termitary/test".to_owned(),
            key: Some("k".to_owned()),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            cause: Some(Uuid::now_v7()),
            data: as_json_text("ä"),
        };
        let cmd = add("s", &event, Some(7), Some(2));
        let args: Vec<_> = cmd
            .args_iter()
            .skip(3)
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => bytes.to_vec(),
                _ => Vec::new(),
            })
            .collect();
        let fields = args
            .chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        let read = decode(
            &stream(),
            &Raw {
                id: "1-1".to_owned(),
                fields: Some(fields),
            },
        );
        let Ok(Carried { envelope, ledger }) = read else {
            panic!("unreadable")
        };
        assert_eq!(ledger, Some((7, 2)));
        assert_eq!(format!("{envelope:?}"), format!("{event:?}"));
    }

    #[test]
    fn a_foreign_producer_writes_data_alone_or_a_cloud_event() {
        let plain = decode(&stream(), &raw(&[("d", "{\"id\":1}")]));
        let Ok(plain) = plain else {
            panic!("unreadable")
        };
        assert_eq!(plain.envelope.time, from_micros(1_700_000_000_000_000));
        assert_eq!(plain.envelope.source, FOREIGN);
        let ce = r#"{"specversion":"1.0","id":"a","source":"/x","type":"todos.created","dataschema":"urn:x:2","data":{"id":1}}"#;
        let Ok(cloud) = decode(&stream(), &raw(&[("ce", ce)])) else {
            panic!("unreadable")
        };
        assert_eq!(
            (cloud.envelope.version, cloud.envelope.data.get()),
            (2, "{\"id\":1}")
        );
        assert_eq!(cloud.envelope.id.get_version_num(), 8);
    }

    #[test]
    fn what_cannot_be_read_is_kept_as_text_under_a_stable_id() {
        for fields in [
            &[("x", "y")][..],
            &[("d", "{")],
            &[("d", "{}"), ("i", "no")],
            &[("d", "{}"), ("e", "no 1 1 /x")],
            &[("d", "{}"), ("e", "")],
            &[("d", "{}"), ("l", "x")],
            &[("ce", "{}")],
            &[(
                "ce",
                r#"{"specversion":"1.0","id":"a","source":"/x","type":"other"}"#,
            )],
        ] {
            let (one, two) = (refused(fields), refused(fields));
            assert_eq!(one.envelope.id, two.envelope.id);
            assert!(one.envelope.data.get().starts_with('"'));
        }
        let huge = refused(&[("d", &"x".repeat(MAX_DATA_BYTES + 1))]);
        assert!(huge.envelope.data.get().len() < MAX_DATA_BYTES && huge.error.contains("bytes"));
    }
}
